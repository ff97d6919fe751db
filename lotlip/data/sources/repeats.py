"""Where a key came first: for tables of many millions of rows, in 20 to 30 bytes a row."""

_KEY_BYTES = 10
_SLOT_BYTES = 16  # a key, and the number of its row; 0 where the slot is free
_MAX_LOAD = 0.75
_GROWTH = 1.5


class FirstRows:
    """Row numbers (from 1) of keys of 10 evenly spread bytes: a hash table with open addresses in one block."""

    def __init__(self) -> None:
        self._num_slots = 1024
        self._table = bytearray(self._num_slots * _SLOT_BYTES)
        self._num_keys = 0

    def __len__(self) -> int:
        return self._num_keys

    def add(self, key: bytes, row: int) -> int:
        """The first row with that key, which is `row` itself where the key is new."""
        if self._num_keys >= _MAX_LOAD * self._num_slots:
            self._grow()
        first = self._place(key, row)
        self._num_keys += first == row
        return first

    def _place(self, key: bytes, row: int) -> int:
        table, slot = self._table, int.from_bytes(key[:8]) % self._num_slots
        while True:
            at = slot * _SLOT_BYTES
            first = int.from_bytes(table[at + _KEY_BYTES : at + _SLOT_BYTES])
            if first == 0:
                table[at : at + _SLOT_BYTES] = key + row.to_bytes(_SLOT_BYTES - _KEY_BYTES)
                return row
            if table[at : at + _KEY_BYTES] == key:
                return first
            slot = (slot + 1) % self._num_slots

    def _grow(self) -> None:
        old = self._table
        self._num_slots = int(_GROWTH * self._num_slots)
        self._table = bytearray(self._num_slots * _SLOT_BYTES)
        for at in range(0, len(old), _SLOT_BYTES):
            if row := int.from_bytes(old[at + _KEY_BYTES : at + _SLOT_BYTES]):
                self._place(bytes(old[at : at + _KEY_BYTES]), row)
