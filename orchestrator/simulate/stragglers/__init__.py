"""How coding schemes would fare with given workers: traces of their times, replays of schemes over them, advice."""
