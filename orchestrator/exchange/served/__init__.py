"""The served exchange: rounds, messages and the layout of shards. Plain objects that know no Ray."""
