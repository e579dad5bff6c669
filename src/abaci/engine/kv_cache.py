"""Bookkeeping of the paged KV cache: which page holds which positions of which sequence. Integers only, no tensors.

Every page is in exactly one of three places:

    free      on the free list of its group
    private   in the table of one sequence, not (yet) full
    cached    in a node of the prefix tree, where any number of sequences may hold it

A node of the tree stands for one full page of tokens and has one page per cache group. Sequences hold the whole path
from the root to their last full page, so a held node never has unheld ancestors. When a path is released its deepest
node is queued for eviction first; the head of that queue is therefore always a leaf, and eviction in order is both
least-recently-used and safe.

In a group with a sliding window a sequence lets go of pages wholly before the window as it advances. Such a page stays
with its node until another sequence needs the room; a prefix hit then has to check that the pages its window reaches
are still there. Pages that were passed on the way give way first, before those at the ends of prompts and of sequences
and where others went on: there somebody may go on again.

    window 5, pages of 4, next position 9 sees 5..9      page   0        1        2
                                                                0 1 2 3  4 5 6 7  8 9
                                                                let go   held     held

Models whose layers keep a recurrent state beside pages continue a prefix only where its state was kept
(`state_pool`): a hit ends at a node that has a snapshot, and prompts stop at places that deserve one.
"""

from collections import OrderedDict
from collections.abc import Sequence

from abaci.engine.eviction import EvictionOrder
from abaci.engine.state_pool import NO_STATE, StatePool

STATE_INTERVAL_TOKENS = 1024
"""Prompts leave a snapshot of their state every so many tokens, beside those at their end and where others branched."""

NO_PAGE = -1
"""Entry of a page table (also on the kernels' side) for a page that no position of the window can see any more."""


class _Node:
    """One full page of tokens below its parent. `num_holders` counts sequences whose path goes through it.

    `page_holders[group]` counts the sequences that still see the page; kept for groups with a window only, as in the
    others it equals `num_holders`.
    """

    __slots__ = ("children", "key", "num_holders", "num_state_readers", "page_holders", "pages", "parent", "state")

    def __init__(self, parent: "_Node | None", key: tuple[int, ...] | str, pages: list[int]) -> None:
        self.parent = parent
        self.key = key
        self.pages = pages
        self.page_holders = [0] * len(pages)
        self.num_holders = 0
        self.children: dict[tuple[int, ...], _Node] = {}
        self.state = NO_STATE
        self.num_state_readers = 0


class PageTable:
    """The pages of one sequence. Written by KVCache only.

    pages[group][i] holds positions [i * page_tokens, (i + 1) * page_tokens), or is NO_PAGE below first_page[group].
    `version` grows with every change of `pages`. `capacity` and `next_boundary` count tokens: how many positions have
    pages, and how many must be computed before the next page is full. `state_read` and `state_write` are the slots that
    the next step reads and writes, NO_STATE where there is none.
    """

    __slots__ = (
        "_last_snapshot",
        "_nodes",
        "_read_node",
        "branch_tokens",
        "capacity",
        "first_page",
        "next_boundary",
        "num_hit_tokens",
        "num_prompt_pages",
        "pages",
        "state_read",
        "state_write",
        "version",
    )

    def __init__(self, path: list[_Node], num_groups: int, page_tokens: int, num_prompt_pages: int) -> None:
        num_pages = len(path) - 1
        self.num_prompt_pages = num_prompt_pages
        """Full ones of the tokens known at the beginning."""
        self._nodes = path
        self.pages: list[list[int]] = [[node.pages[group] for node in path[1:]] for group in range(num_groups)]
        self.first_page = [0] * num_groups
        self.num_hit_tokens = num_pages * page_tokens
        self.capacity = self.num_hit_tokens
        self.next_boundary = self.capacity + page_tokens
        self.version = 0
        self.branch_tokens = 0
        """Where tokens that others computed as well end, if a snapshot there would have made the hit longer."""
        self.state_read = self.state_write = NO_STATE
        self._read_node: _Node | None = None
        """Whose snapshot `state_read` is."""
        self._last_snapshot: _Node | None = None
        """Of a stream: further ones make it worthless."""


class KVCache:
    """Page pools, page tables and the prefix tree of one engine.

    windows      per cache group: None for full attention, else how many positions a position sees, itself included.
    num_pages    per cache group.
    page_tokens  positions per page.
    num_states   slots for recurrent states; 0 where the model has none.
    """

    def __init__(
        self, windows: Sequence[int | None], num_pages: Sequence[int], page_tokens: int, num_states: int = 0
    ) -> None:
        if len(windows) != len(num_pages) or not windows:
            raise ValueError(f"{len(windows)} cache groups, {len(num_pages)} page pools")
        self.page_tokens = page_tokens
        self.num_pages = tuple(num_pages)
        self._states = StatePool(num_states) if num_states else None
        self._windows = tuple(windows)
        self._windowed = tuple((group, window) for group, window in enumerate(windows) if window is not None)
        self._free = [list(range(count - 1, -1, -1)) for count in num_pages]
        self._roots: dict[str, _Node] = {}
        self._tables: set[PageTable] = set()
        self._unheld: OrderedDict[_Node, None] = OrderedDict()
        self._idle: tuple[EvictionOrder[_Node], ...] = tuple(EvictionOrder() for _ in windows)

    def num_available(self, group: int) -> int:
        """Pages that can be had at once: free ones, and cached ones that no sequence holds."""
        evictable = self._unheld if self._windows[group] is None else self._idle[group]
        return len(self._free[group]) + len(evictable)

    def num_free(self, group: int) -> int:
        """Pages that hold nothing."""
        return len(self._free[group])

    def used_fraction(self) -> float:
        """Share of the pages that sequences hold, in the group where it is greatest. Any thread."""
        groups = enumerate(self.num_pages)
        return max(1 - self.num_available(group) / count for group, count in groups)

    def pages_needed(self, num_tokens: int, group: int) -> int:
        """Most pages that a sequence of `num_tokens` holds at a time in `group`, if it advances page by page."""
        pages = -(-num_tokens // self.page_tokens)
        window = self._windows[group]
        if window is None:
            return pages
        return min(pages, (window + self.page_tokens - 2) // self.page_tokens + 1)

    def pages_held(self, table: PageTable, group: int) -> int:
        """Pages that `table` holds in `group` now."""
        return len(table.pages[group]) - table.first_page[group]

    def acquire(self, token_ids: Sequence[int], max_hit_tokens: int, salt: str = "") -> PageTable:
        """A table that starts with the longest cached prefix of at most `max_hit_tokens`; only equal salts share."""
        root = self._roots.get(salt)
        if root is None:
            root = self._roots[salt] = _Node(None, salt, [])
        root.num_holders += 1
        path, num_known = self._longest_hit(root, token_ids, max_hit_tokens)
        table = PageTable([root, *path], len(self._windows), self.page_tokens, len(token_ids) // self.page_tokens)
        for group, window in self._windowed:
            first = self._first_visible_page(table.num_hit_tokens, window)
            table.first_page[group] = first
            table.pages[group][:first] = [NO_PAGE] * first
            for node in path[:first]:
                if len(node.children) == 1:
                    self._idle[group].demote(node)
        for index, node in enumerate(table._nodes[1:]):
            self._hold(node)
            for group, _ in self._windowed:
                if index >= table.first_page[group]:
                    self._hold_page(node, group)
        if self._states is not None:
            table.branch_tokens = num_known * self.page_tokens
            if path:
                self._read_snapshot(table, path[-1])
            self.claim_state(table)
        self._tables.add(table)
        return table

    def claim_state(self, table: PageTable) -> bool:
        """See that `table` has a slot to write, if the model needs one; False where none can be had."""
        if self._states is None or table.state_write != NO_STATE:
            return True
        if self._states.num_available == 0:
            return False
        table.state_write = self._states.take()
        return True

    def next_stop(self, table: PageTable, start: int, num_known: int) -> int:
        """Where a prompt of `num_known` tokens that goes on from `start` should end its step at the latest, so that a
        snapshot can be taken there: at its last whole page, where others branched off, and every now and then."""
        if self._states is None:
            return num_known
        interval = (start // STATE_INTERVAL_TOKENS + 1) * STATE_INTERVAL_TOKENS
        stops = (interval, self._last_boundary(num_known), table.branch_tokens, num_known)
        return min(stop for stop in stops if stop > start)

    def _last_boundary(self, num_known: int) -> int:
        """Where a prompt's last whole page ends, and a token is left to compute."""
        return (num_known - 1) // self.page_tokens * self.page_tokens

    def advance_state(self, table: PageTable, num_computed: int, num_known: int, *, is_stream: bool) -> None:
        """A step has brought the state to `num_computed` of `num_known` tokens; where `next_stop` says, and at the end
        of a stream's page, it is kept, if there is room.

        After `advance`. Of a stream only the latest snapshot is worth keeping. Those on a prompt's way take no room
        from ends, and where a prompt ends, those before on its path are on the way, but for the one it went on from:
        its last part may be asked again in other words.
        """
        if self._states is None:
            return
        self._stop_reading(table)
        table.state_read = table.state_write
        node = table._nodes[-1]
        if num_computed % self.page_tokens or node.parent is None or node.state != NO_STATE:
            return
        ends_prompt = not is_stream and num_computed == self._last_boundary(num_known)
        is_end = is_stream or ends_prompt or num_computed == table.branch_tokens
        if not is_end and num_computed % STATE_INTERVAL_TOKENS:
            return
        if (self._states.num_available if is_end else self._states.num_spare) == 0:
            return
        slot = self._states.take()
        self._states.keep(node, table.state_write, is_end=is_end)
        self._read_snapshot(table, node)
        table.state_write = slot
        if is_stream and table._last_snapshot is not None:
            self._states.drop(table._last_snapshot)
        table._last_snapshot = node if is_stream else None
        if ends_prompt:
            num_hit_pages = table.num_hit_tokens // self.page_tokens
            for num_pages, passed in enumerate(table._nodes[:-1]):
                if len(passed.children) == 1 and num_pages != num_hit_pages:
                    self._states.demote(passed)

    def _read_snapshot(self, table: PageTable, node: _Node) -> None:
        assert self._states is not None
        self._states.hold(node)
        table._read_node = node
        table.state_read = node.state

    def _stop_reading(self, table: PageTable) -> None:
        if table._read_node is not None:
            assert self._states is not None
            self._states.release(table._read_node)
            table._read_node = None

    def ends_where(self, table: PageTable | None, other: PageTable) -> bool:
        """Whether both have the same full pages, so that the next one may be the same as well."""
        return table is not None and table._nodes[-1] is other._nodes[-1]

    def room_tokens(self, table: PageTable) -> int:
        """How many positions `table` could have pages for, if it took all pages that can be had."""
        pages = min(self.num_available(group) for group in range(len(self._windows)))
        return table.capacity + pages * self.page_tokens

    def extend(self, table: PageTable, num_tokens: int) -> None:
        """Give `table` pages for its first `num_tokens` positions; not more than `room_tokens`."""
        count = -(-(num_tokens - table.capacity) // self.page_tokens)
        if count <= 0:
            return
        for group, pages in enumerate(table.pages):
            pages.extend([self._take_page(group) for _ in range(count)])
        table.capacity += count * self.page_tokens
        table.version += 1

    def advance(self, table: PageTable, token_ids: Sequence[int], num_computed: int) -> None:
        """Enter pages that `num_computed` positions fill into the tree; let go of those that windows have passed."""
        while table.next_boundary <= num_computed:
            self._enter(table, tuple(token_ids[table.next_boundary - self.page_tokens : table.next_boundary]))
            table.next_boundary += self.page_tokens
        for group, window in self._windowed:
            first = self._first_visible_page(num_computed, window)
            for index in range(table.first_page[group], first):
                is_end = self._is_end(table, index, window)
                self._release_page(table._nodes[index + 1], group, is_end=is_end)
                table.pages[group][index] = NO_PAGE
                table.first_page[group] = index + 1
                table.version += 1

    def release(self, table: PageTable) -> None:
        """Let go of everything; full pages stay in the tree until their room is needed. The table is dead then."""
        self._tables.remove(table)
        if self._states is not None:
            self._stop_reading(table)
            if table.state_write != NO_STATE:
                self._states.give_back(table.state_write)
            table.state_read = table.state_write = NO_STATE
        num_cached = len(table._nodes) - 1
        for group, pages in enumerate(table.pages):
            self._free[group].extend(reversed(pages[num_cached:]))
        for index in range(num_cached - 1, -1, -1):
            node = table._nodes[index + 1]
            for group, _ in self._windowed:
                if index >= table.first_page[group]:
                    self._release_page(node, group, is_end=True)
            node.num_holders -= 1
            if node.num_holders == 0:
                self._unheld[node] = None
                self._prune(node)
        root = table._nodes[0]
        root.num_holders -= 1
        self._prune_root(root)

    def _first_visible_page(self, position: int, window: int) -> int:
        return max(0, position - window + 1) // self.page_tokens

    def _is_end(self, table: PageTable, index: int, window: int) -> bool:
        """Whether a page that `table` has passed is seen by who goes on where its prompt ended, or one page before, or
        where it went on itself."""
        ends = (table.num_prompt_pages, table.num_prompt_pages - 1, table.num_hit_tokens // self.page_tokens)
        return any(self._first_visible_page(end * self.page_tokens, window) <= index < end for end in ends)

    def _longest_hit(self, root: _Node, token_ids: Sequence[int], max_hit_tokens: int) -> tuple[list[_Node], int]:
        """The nodes of the longest prefix that can be continued, and how many would do if their state had been kept."""
        path: list[_Node] = []
        num_hit_pages = num_known_pages = 0
        resident_runs = [0] * len(self._windows)
        node: _Node | None = root
        for end in range(self.page_tokens, max_hit_tokens + 1, self.page_tokens):
            assert node is not None
            node = node.children.get(tuple(token_ids[end - self.page_tokens : end]))
            if node is None:
                break
            path.append(node)
            complete = True
            for group, window in self._windowed:
                resident_runs[group] = resident_runs[group] + 1 if node.pages[group] != NO_PAGE else 0
                if resident_runs[group] < len(path) - self._first_visible_page(end, window):
                    complete = False
            if complete:
                num_known_pages = len(path)
                if self._states is None or node.state != NO_STATE:
                    num_hit_pages = len(path)
        return path[:num_hit_pages], num_known_pages

    def _enter(self, table: PageTable, key: tuple[int, ...]) -> None:
        """Move the table's next page into the tree, or take the tree's page where an equal one is there already.

        Equal tokens at equal positions have equal keys and values to the bit, so pages may be exchanged at any time.
        """
        index = len(table._nodes) - 1
        parent = table._nodes[-1]
        node = parent.children.get(key)
        if node is None:
            node = parent.children[key] = _Node(parent, key, [pages[index] for pages in table.pages])
            node.num_holders = 1
            for group, _ in self._windowed:
                node.page_holders[group] = 1
        else:
            self._exchange(table, index, node)
        table._nodes.append(node)

    def _exchange(self, table: PageTable, index: int, node: _Node) -> None:
        self._hold(node)
        for group, pages in enumerate(table.pages):
            if node.pages[group] == NO_PAGE:
                node.pages[group] = pages[index]
                node.page_holders[group] = 1
                continue
            if self._windows[group] is not None:
                self._hold_page(node, group)
            self._free[group].append(pages[index])
            pages[index] = node.pages[group]
        table.version += 1

    def _hold(self, node: _Node) -> None:
        if node.num_holders == 0:
            del self._unheld[node]
        node.num_holders += 1

    def _hold_page(self, node: _Node, group: int) -> None:
        if node.page_holders[group] == 0:
            self._idle[group].discard(node)
        node.page_holders[group] += 1

    def _release_page(self, node: _Node, group: int, *, is_end: bool) -> None:
        node.page_holders[group] -= 1
        if node.page_holders[group] == 0:
            self._idle[group].push(node, is_end=is_end)

    def _take_page(self, group: int) -> int:
        free = self._free[group]
        if not free:
            if self._windows[group] is None:
                self._remove(next(iter(self._unheld)))
            else:
                self._drop_page(self._idle[group].first(), group)
        return free.pop()

    def _drop_page(self, node: _Node, group: int) -> None:
        self._idle[group].discard(node)
        self._free[group].append(node.pages[group])
        node.pages[group] = NO_PAGE
        self._prune(node)

    def _remove(self, node: _Node) -> None:
        """Take an unheld leaf out of the tree and free its pages."""
        assert not node.children, "a child outlives its parent in the eviction order"
        assert node.parent is not None
        del self._unheld[node]
        if self._states is not None:
            self._states.drop(node)
        for group, page in enumerate(node.pages):
            if page != NO_PAGE:
                self._free[group].append(page)
                self._idle[group].discard(node)
        parent = node.parent
        del parent.children[node.key]  # type: ignore[arg-type]  # only a root's key is a string
        if parent.parent is None:
            self._prune_root(parent)
        else:
            self._prune(parent)

    def _prune(self, node: _Node) -> None:
        """Remove a leaf that has lost all its pages (possible only where every group has a window)."""
        if node.num_holders == 0 and not node.children and all(page == NO_PAGE for page in node.pages):
            self._remove(node)

    def _prune_root(self, root: _Node) -> None:
        if root.num_holders == 0 and not root.children:
            assert isinstance(root.key, str)
            del self._roots[root.key]

    def check_integrity(self) -> None:
        """Recount everything: free + cached + private = all, and every holder count is exact. For tests; O(pages)."""
        nodes = self._all_nodes()
        holders = dict.fromkeys(nodes, 0)
        for table in self._tables:
            assert len(table._nodes) - 1 == table.next_boundary // self.page_tokens - 1
            for node in table._nodes[1:]:
                holders[node] += 1
        for node, count in holders.items():
            assert node.num_holders == count, "holder count of a node"
            assert (node in self._unheld) == (count == 0), "unheld nodes are exactly the queued ones"
            assert node.parent is not None and node.parent.num_holders >= count
        self._check_eviction_order()
        if self._states is not None:
            own = [table.state_write for table in self._tables if table.state_write != NO_STATE]
            self._states.check_integrity(list(nodes), own)
            readers = [table._read_node for table in self._tables if table._read_node is not None]
            for node in nodes:
                assert node.num_state_readers == sum(other is node for other in readers)
        for group in range(len(self._windows)):
            self._check_group(group, nodes)

    def _all_nodes(self) -> list[_Node]:
        nodes: list[_Node] = []
        for root in self._roots.values():
            assert root.num_holders == sum(table._nodes[0] is root for table in self._tables)
            assert root.num_holders or root.children, "an empty root is forgotten"
            pending = list(root.children.values())
            while pending:
                node = pending.pop()
                nodes.append(node)
                pending.extend(node.children.values())
        return nodes

    def _check_eviction_order(self) -> None:
        seen: set[_Node] = set()
        for node in self._unheld:
            assert all(child in seen for child in node.children.values()), "children are evicted before their parent"
            seen.add(node)

    def _check_group(self, group: int, nodes: list[_Node]) -> None:
        windowed = self._windows[group] is not None
        visible = dict.fromkeys(nodes, 0)
        cached = [node.pages[group] for node in nodes if node.pages[group] != NO_PAGE]
        private: list[int] = []
        for table in self._tables:
            pages = table.pages[group]
            assert len(pages) * self.page_tokens == table.capacity
            private.extend(pages[len(table._nodes) - 1 :])
            for index, node in enumerate(table._nodes[1:]):
                if index < table.first_page[group]:
                    assert pages[index] == NO_PAGE
                else:
                    assert pages[index] == node.pages[group] != NO_PAGE, "a table and its path name the same page"
                    visible[node] += 1
        everything = sorted(self._free[group] + cached + private)
        assert everything == list(range(self.num_pages[group])), "free + cached + private = all, each page once"
        for node in nodes:
            if windowed:
                assert node.page_holders[group] == visible[node], "holder count of a page"
                idle = node.pages[group] != NO_PAGE and visible[node] == 0
                assert (node in self._idle[group]) == idle
            else:
                assert node.pages[group] != NO_PAGE
