// A LAMB step over float32 tensors in host memory: the two phases of kernels/lamb.py, each one pass over the data.
//
// Results are the same bits for every number of threads, every alignment and every vector width: elements are computed
// one by one (the build forbids contraction to fma), and sums follow fixed chunks and fixed lanes.

#include <omp.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

#if defined(__AVX512F__)
constexpr int WIDTH = 16;
#elif defined(__AVX2__)
constexpr int WIDTH = 8;
#else
constexpr int WIDTH = 4;
#endif
typedef float Floats __attribute__((vector_size(WIDTH * sizeof(float))));

constexpr int LANES = 16;
constexpr int PARTS = LANES / WIDTH;
constexpr int64_t BLOCK = 256;                // elements whose squares are added in float
constexpr int64_t CHUNK = 64 * BLOCK;         // elements of one partial sum
constexpr int64_t ALONE = 4 * CHUNK;          // up to here a tensor is one thread's: starting all costs more
constexpr int64_t AHEAD = 256;                // elements from a load to its prefetch: hardware stops at each page

float root(float x) { return std::sqrt(x); }

Floats root(Floats x) {
#if defined(__AVX512F__)
    return _mm512_sqrt_ps(x);
#elif defined(__AVX2__)
    return _mm256_sqrt_ps(x);
#elif defined(__SSE2__)
    return _mm_sqrt_ps(x);
#else
    for (int lane = 0; lane < WIDTH; ++lane) x[lane] = std::sqrt(x[lane]);
    return x;
#endif
}

template <typename T>
T load(const float* from) {
    T x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

template <typename T>
void store(float* to, T x) {
    std::memcpy(to, &x, sizeof x);
}

// One row of Coefficients (kernels/lamb.py), in its order.
struct Row {
    double lr, beta1, beta2, correction1, correction2, eps, weight_decay;
    double adapt, min_norm, max_norm, min_ratio, max_ratio;
};

struct Sums {
    double p, u;
};

struct Batch {
    int64_t n;
    const int64_t* sizes;
    float* const* p;
    const float* const* g;
    float* const* m;
    float* const* v;
    const Row* rows;
};

struct Numbers {
    float lr, beta1, rest1, beta2, rest2, scale1, scale2, eps, decay;

    explicit Numbers(const Row& row)
        : lr(float(row.lr)),
          beta1(float(row.beta1)),
          rest1(float(1 - row.beta1)),
          beta2(float(row.beta2)),
          rest2(float(1 - row.beta2)),
          scale1(float(1 / row.correction1)),
          scale2(float(1 / row.correction2)),
          eps(float(row.eps)),
          decay(float(row.weight_decay)) {}

    template <typename T>
    T direction(T p, T m, T v) const {
        return (m * scale1) / (root(v * scale2) + eps) + decay * p;
    }
};

// Sum of squares; element i of a chunk goes to lane i % LANES, in float within a block and in double beyond.
class Squares {
  public:
    void add(int part, Floats x) { block_[part] += x * x; }
    void add(int lane, float x) { total_[lane] += double(x) * double(x); }

    void end_block() {
        float lanes[LANES];
        std::memcpy(lanes, block_, sizeof lanes);
        for (int lane = 0; lane < LANES; ++lane) total_[lane] += lanes[lane];
        std::memset(block_, 0, sizeof block_);
    }

    double total() const {
        double total = 0;
        for (int lane = 0; lane < LANES; ++lane) total += total_[lane];
        return total;
    }

  private:
    Floats block_[PARTS] = {};
    double total_[LANES] = {};
};

// Where the elements of a chunk lie.
struct Run {
    float* p;
    const float* g;
    float *m, *v;
};

template <typename... Pointers>
void prefetch(Pointers... at) {
    (__builtin_prefetch(at + AHEAD), ...);
}

// Moves m and v of one element, or of a vector of them, and p as well with AT_ONCE.
template <typename T, bool AT_ONCE>
void measure_at(const Run& run, int64_t i, const Numbers& c, int place, Squares& p_squares, Squares& u_squares) {
    prefetch(run.p + i, run.g + i, run.m + i, run.v + i);
    const T p = load<T>(run.p + i), g = load<T>(run.g + i);
    const T m = c.beta1 * load<T>(run.m + i) + c.rest1 * g;
    const T v = c.beta2 * load<T>(run.v + i) + c.rest2 * (g * g);
    const T u = c.direction(p, m, v);
    store(run.m + i, m);
    store(run.v + i, v);
    if (AT_ONCE) store(run.p + i, p - c.lr * u);
    p_squares.add(place, p);
    u_squares.add(place, u);
}

template <typename T>
void apply_at(const Run& run, int64_t i, const Numbers& c, float rate) {
    prefetch(run.p + i, run.m + i, run.v + i);
    const T p = load<T>(run.p + i);
    store(run.p + i, p - rate * c.direction(p, load<T>(run.m + i), load<T>(run.v + i)));
}

int64_t num_chunks(int64_t size) { return (size + CHUNK - 1) / CHUNK; }

Run run_of(const Batch& b, int64_t tensor, int64_t chunk) {
    const int64_t at = chunk * CHUNK;
    const float* g = b.g ? b.g[tensor] + at : nullptr;
    return {b.p[tensor] + at, g, b.m[tensor] + at, b.v[tensor] + at};
}

int64_t chunk_size(const Batch& b, int64_t tensor, int64_t chunk) {
    return std::min(CHUNK, b.sizes[tensor] - chunk * CHUNK);
}

template <bool AT_ONCE>
Sums measure_chunk(const Batch& b, int64_t tensor, int64_t chunk) {
    const Numbers numbers(b.rows[tensor]);
    const Run run = run_of(b, tensor, chunk);
    const int64_t count = chunk_size(b, tensor, chunk), whole = count / LANES * LANES;
    Squares p_squares, u_squares;
    for (int64_t start = 0; start < whole; start += BLOCK) {
        for (int64_t i = start; i < std::min(start + BLOCK, whole); i += LANES) {
            for (int part = 0; part < PARTS; ++part) {
                measure_at<Floats, AT_ONCE>(run, i + part * WIDTH, numbers, part, p_squares, u_squares);
            }
        }
        p_squares.end_block();
        u_squares.end_block();
    }
    for (int64_t i = whole; i < count; ++i) {
        measure_at<float, AT_ONCE>(run, i, numbers, int(i - whole), p_squares, u_squares);
    }
    return {p_squares.total(), u_squares.total()};
}

void apply_chunk(const Batch& b, int64_t tensor, int64_t chunk, float rate) {
    const Numbers numbers(b.rows[tensor]);
    const Run run = run_of(b, tensor, chunk);
    const int64_t count = chunk_size(b, tensor, chunk), whole = count / WIDTH * WIDTH;
    for (int64_t i = 0; i < whole; i += WIDTH) apply_at<Floats>(run, i, numbers, rate);
    for (int64_t i = whole; i < count; ++i) apply_at<float>(run, i, numbers, rate);
}

Sums add(const Sums* partial, int64_t count) {
    Sums sums{0, 0};
    for (int64_t i = 0; i < count; ++i) {
        sums.p += partial[i].p;
        sums.u += partial[i].u;
    }
    return sums;
}

// Comparisons are false for nan, which passes through.
double clamp(double x, double low, double high) { return x < low ? low : x > high ? high : x; }

double trust_ratio(const Sums& sums, const Row& row) {
    const double norm = std::sqrt(sums.p), length = std::sqrt(sums.u);
    if (norm == 0 || length == 0 || row.adapt == 0) return 1;
    return clamp(clamp(norm, row.min_norm, row.max_norm) / length, row.min_ratio, row.max_ratio);
}

// A tensor's update by `team` threads together, of which this is number `member`; all pass the same barriers.
template <typename Barrier>
void update_tensor(const Batch& b, int64_t tensor, int member, int team, Sums* partial, Sums* sums, Barrier wait) {
    const Row& row = b.rows[tensor];
    const int64_t chunks = num_chunks(b.sizes[tensor]);
    const int64_t first = chunks * member / team, last = chunks * (member + 1) / team;
    const bool adapt = row.adapt != 0;
    for (int64_t chunk = first; chunk < last; ++chunk) {
        partial[chunk] = adapt ? measure_chunk<false>(b, tensor, chunk) : measure_chunk<true>(b, tensor, chunk);
    }
    wait();
    const Sums whole = add(partial, chunks);
    if (member == 0) *sums = whole;
    if (adapt) {
        const float rate = float(row.lr * trust_ratio(whole, row));
        // Backwards: what was measured last is still in the cache.
        for (int64_t chunk = last; chunk-- > first;) apply_chunk(b, tensor, chunk, rate);
    }
    wait();  // the next tensor writes where slower members still read
}

struct Place {
    int64_t tensor, chunk;
};

std::vector<Place> all_chunks(const Batch& b) {
    std::vector<Place> places;
    for (int64_t tensor = 0; tensor < b.n; ++tensor) {
        for (int64_t chunk = 0; chunk < num_chunks(b.sizes[tensor]); ++chunk) places.push_back({tensor, chunk});
    }
    return places;
}

}  // namespace

extern "C" {

void lamb_measure(int64_t n, const int64_t* sizes, float* const* p, const float* const* g, float* const* m,
                  float* const* v, const double* rows, int threads, double* sums) {
    const Batch b{n, sizes, p, g, m, v, reinterpret_cast<const Row*>(rows)};
    const std::vector<Place> places = all_chunks(b);
    std::vector<Sums> partial(places.size());
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size_t i = 0; i < places.size(); ++i) {
        partial[i] = measure_chunk<false>(b, places[i].tensor, places[i].chunk);
    }
    const Sums* next = partial.data();
    for (int64_t tensor = 0; tensor < n; ++tensor) {
        reinterpret_cast<Sums*>(sums)[tensor] = add(next, num_chunks(sizes[tensor]));
        next += num_chunks(sizes[tensor]);
    }
}

void lamb_apply(int64_t n, const int64_t* sizes, float* const* p, float* const* m, float* const* v,
                const double* rows, int threads, const double* ratios) {
    const Batch b{n, sizes, p, nullptr, m, v, reinterpret_cast<const Row*>(rows)};
    const std::vector<Place> places = all_chunks(b);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (size_t i = 0; i < places.size(); ++i) {
        // Backwards, as in update_tensor.
        const Place& place = places[places.size() - 1 - i];
        apply_chunk(b, place.tensor, place.chunk, float(b.rows[place.tensor].lr * ratios[place.tensor]));
    }
}

void lamb_update(int64_t n, const int64_t* sizes, float* const* p, const float* const* g, float* const* m,
                 float* const* v, const double* rows, int threads, double* sums) {
    const Batch b{n, sizes, p, g, m, v, reinterpret_cast<const Row*>(rows)};
    Sums* results = reinterpret_cast<Sums*>(sums);
    const int64_t largest = n ? *std::max_element(sizes, sizes + n) : 0;
    std::vector<Sums> shared(num_chunks(largest));
#pragma omp parallel num_threads(threads)
    {
        const int member = omp_get_thread_num(), team = omp_get_num_threads();
        for (int64_t tensor = 0; tensor < n; ++tensor) {
            if (sizes[tensor] <= ALONE) continue;
            update_tensor(b, tensor, member, team, shared.data(), results + tensor, [] {
#pragma omp barrier
            });
        }
#pragma omp for schedule(dynamic)
        for (int64_t tensor = 0; tensor < n; ++tensor) {
            if (sizes[tensor] > ALONE) continue;
            Sums partial[ALONE / CHUNK];
            update_tensor(b, tensor, 0, 1, partial, results + tensor, [] {});
        }
    }
}

}  // extern "C"
