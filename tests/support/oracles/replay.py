"""A slow, obvious model of the replay window: it keeps every record and reads them all again for each verdict."""

REACH = 192  # constants.pxd: 256 bits, one word of 64 in reserve


class ReplayModel:
    def __init__(self, window_ms: int) -> None:
        self.window_ms = window_ms
        self.records: dict[int, list[tuple[int, int, int]]] = {}  # partition -> (generation, session, seq)

    def admit(self, session: int, partition: int, seq: int, time: int) -> bool:
        records = self.records.setdefault(partition, [])
        generation = max(time // self.window_ms, max((record[0] for record in records), default=0))
        first = session == 0 or not any(
            self.is_known(records, looked_at, session, seq) for looked_at in (generation, generation - 1)
        )
        records.append((generation, session, seq))
        return first

    @staticmethod
    def is_known(records: list[tuple[int, int, int]], generation: int, session: int, seq: int) -> bool:
        """Whether a generation knows this seq as seen, or as too old to be new."""
        seqs = [record[2] for record in records if record[:2] == (generation, session)]
        return bool(seqs) and (seq in seqs or max(seqs) - seq >= REACH)

    def highest(self, session: int) -> int:
        """Of the current and the previous generation of each partition."""
        seqs = [0]
        for records in self.records.values():
            newest = max(record[0] for record in records)
            seqs += [record[2] for record in records if record[0] >= newest - 1 and record[1] == session != 0]
        return max(seqs)

    def n_entries(self) -> int:
        """Windows of the current and the previous generation of each partition."""
        live = set[tuple[int, int, int]]()
        for partition, records in self.records.items():
            newest = max(record[0] for record in records)
            live |= {(partition, *record[:2]) for record in records if record[0] >= newest - 1 and record[1] != 0}
        return len(live)
