// The tasks: what is known of each (TaskStore), the one word that tells its state truthfully (stateOf), and the table
// that shows thousands of them while only a window of rows exists (TaskTable). Nothing is sent from here.

import { byId, durationMs, exitText, instant, serverNow, setData, setLabel, setText, showTime } from './basics.js';

/** The states a task is shown in, in the order of the filter chips. `stateOf` says when each holds. */
export const STATES = ['running', 'stopping', 'queued', 'waiting', 'errored', 'exited', 'stopped'];

/** A restart that is this late will not come: the original daemon drops one silently when the spawn fails. */
const RESTART_OVERDUE_MS = 10_000;

// === What is known ===

let serials = 0;

function newTask(id) {
  return {
    id,
    serial: ++serials,
    action: '',
    params: null,
    retry: null,
    state: 'active',
    workerState: '',
    pid: 0,
    restarts: 0,
    /** `created_at` as listed: tells a task from a later one of the same id. */
    identity: null,
    createdAt: null,
    queuedAt: null,
    startedAt: null,
    exitedAt: null,
    exitCode: null,
    exitCount: 0,
    position: 0,
    errorMessage: '',
    phase: '',
    // Known from events or from this page's own requests only:
    restartAt: null,
    attempt: 0,
    stopAsked: false,
    touched: 0,
  };
}

export class TaskStore {
  constructor() {
    this.tasks = new Map();
    this.clock = 0;
    /** Earliest event time of a task that was never listed: only a list tells its action and parameters. */
    this.unknownSince = null;
  }

  get(id) {
    return this.tasks.get(id);
  }

  /** Takes a lifecycle message. Returns the task's id if something changed, else null. */
  apply(msg) {
    const change = LIFECYCLE[msg.type];
    if (!change || !msg.task_id) return null;
    this.clock += 1;
    const task = this.#ensure(msg);
    if (!task) return null;
    task.touched = this.clock;
    change(task, msg);
    if (msg.type === 'task_removed' || (msg.type === 'dequeued' && task.state === 'queued')) this.tasks.delete(task.id);
    return task.id;
  }

  /**
   * Takes a `tasks` reply. `mark` is the store's clock when the request was sent: a task with a later event knows
   * better than the list. With `full`, tasks that are not listed are gone.
   * Returns the ids of tasks that are gone, and of those that are another task under an old id.
   */
  merge(infos, mark, full) {
    const gone = [];
    const listed = new Set();
    for (const info of infos) {
      listed.add(info.task_id);
      let task = this.tasks.get(info.task_id);
      const identity = instant(info.created_at);
      if (task && identity && task.identity && identity !== task.identity) {
        gone.push(task.id);
        task = null;
      }
      if (!task) this.tasks.set(info.task_id, (task = newTask(info.task_id)));
      describeTask(task, info);
      if (task.touched <= mark) refreshTask(task, info);
    }
    if (full) {
      for (const task of this.tasks.values()) {
        if (listed.has(task.id) || task.touched > mark) continue;
        this.tasks.delete(task.id);
        gone.push(task.id);
      }
    }
    return gone;
  }

  /** Adds what a start of this page's own said about a task, until a list says it. */
  describe(id, { action, params, retry_policy: retry }) {
    const task = this.tasks.get(id);
    if (!task || task.identity) return;
    task.action = action;
    task.params = params ?? null;
    task.retry = retry ?? null;
  }

  askedToStop(id) {
    const task = this.tasks.get(id);
    if (task) task.stopAsked = true;
  }

  remove(id) {
    this.tasks.delete(id);
  }

  #ensure(msg) {
    const known = this.tasks.get(msg.task_id);
    if (msg.type === 'dequeued' || msg.type === 'task_removed') return known ?? null;
    // Events name no action, and a queued task no parameters.
    if (msg.type !== 'queued' && !known?.identity) {
      const at = instant(msg.ts) ?? serverNow();
      this.unknownSince = Math.min(this.unknownSince ?? at, at);
    }
    const task = known ?? newTask(msg.task_id);
    this.tasks.set(task.id, task);
    return task;
  }
}

/** The part of a listed task that no event can make stale. */
function describeTask(task, info) {
  task.action = info.action;
  task.params = info.params ?? task.params;
  task.retry = info.retry_policy ?? null;
  task.identity = instant(info.created_at) ?? task.identity;
  task.createdAt = task.identity ?? instant(info.queued_at) ?? task.createdAt;
}

function refreshTask(task, info) {
  const startedAt = instant(info.last_started_at);
  // A pending restart is known from its event alone; it is over as soon as a newer worker is listed.
  if (info.worker_state === 'running' || info.state !== 'active') task.restartAt = null;
  if (info.worker_state !== 'running') task.stopAsked = false;
  task.state = info.state;
  task.workerState = info.worker_state ?? '';
  task.pid = info.current_pid ?? 0;
  task.restarts = info.restart_count;
  task.queuedAt = instant(info.queued_at);
  task.startedAt = startedAt;
  task.exitedAt = instant(info.last_exited_at);
  task.exitCode = info.last_exit_code ?? null;
  task.errorMessage = info.error_message ?? '';
  task.phase = info.phase ?? '';
}

const LIFECYCLE = {
  queued(task, msg) {
    task.state = 'queued';
    task.action = msg.action;
    task.queuedAt = instant(msg.ts);
    task.createdAt ??= task.queuedAt;
    task.position = msg.position;
  },
  dequeued() {},
  task_removed() {},
  started(task, msg) {
    const startedAt = instant(msg.ts);
    // The original daemon may send a fast worker's `exited` ahead of its `started`.
    const alreadyOver = task.pid === msg.pid && task.workerState === 'exited' && task.exitedAt >= startedAt;
    task.startedAt = startedAt;
    task.createdAt ??= startedAt;
    task.state = alreadyOver ? task.state : 'active';
    task.position = 0;
    task.queuedAt = null;
    task.restartAt = null;
    task.phase = '';
    if (msg.restart_of) task.restarts = task.attempt || task.restarts + 1;
    if (alreadyOver) return;
    task.pid = msg.pid;
    task.workerState = 'running';
    task.exitCode = null;
    task.stopAsked = false;
  },
  exited(task, msg) {
    const exitedAt = instant(msg.ts);
    // A replay repeats old exits: one of another worker, or of before this worker's start, says nothing new.
    if (task.pid && task.pid !== msg.pid) return;
    if (task.startedAt && exitedAt < task.startedAt) return;
    if (task.workerState === 'exited' && task.exitedAt === exitedAt) return;
    task.pid = msg.pid;
    task.workerState = 'exited';
    task.exitedAt = exitedAt;
    task.exitCode = msg.exit_code;
    task.stopAsked = false;
    task.phase = '';
    if (msg.intentional) task.state = 'stopped';
  },
  restarting(task, msg) {
    task.workerState = 'exited';
    task.attempt = msg.attempt;
    task.restartAt = (instant(msg.ts) ?? serverNow()) + durationMs(msg.restart_delay);
  },
  errored(task, msg) {
    task.state = 'errored';
    task.workerState = 'exited';
    task.exitCount = msg.exit_count;
    task.restartAt = null;
  },
};

// === The state in one word ===

/**
 * The state that `task` is in, as far as the wire can tell. On the wire a task that finished by itself stays `active`,
 * and so does one that waits for its restart; both are told apart here.
 */
export function stateOf(task) {
  if (task.state === 'queued') return 'queued';
  if (task.state === 'errored') return 'errored';
  if (task.workerState === 'running') return isStopping(task) ? 'stopping' : 'running';
  if (task.state === 'stopped') return 'stopped';
  if (awaitsRestart(task)) return 'waiting';
  return task.workerState === 'exited' ? 'exited' : 'running';
}

function isStopping(task) {
  return task.state === 'stopped' || task.stopAsked || task.phase === 'stopping';
}

function awaitsRestart(task) {
  if (task.phase === 'delay') return true;
  if (task.workerState !== 'exited') return false;
  // Without its `restarting` event, a policy and a recent exit tell that the worker comes back: exit 0 counts too.
  const longestDelay = durationMs(task.retry?.restart_delay) + durationMs(task.retry?.restart_jitter);
  const due = task.restartAt ?? (task.retry && task.exitedAt ? task.exitedAt + longestDelay : null);
  return due !== null && serverNow() < due + RESTART_OVERDUE_MS;
}

/** The words that are shown for `stateOf`, with the exit code where it is the news. */
export function stateText(task, state = stateOf(task)) {
  if (state === 'exited') return task.exitCode === null ? 'exited' : exitText(task.exitCode);
  if (state === 'queued' && task.position > 0) return `queued, no. ${task.position}`;
  return state === 'waiting' ? 'waiting to restart' : state;
}

/** How the state is coloured: an exit is quiet when its code is 0 and loud when not. */
export function toneOf(task, state) {
  return state === 'exited' && task.exitCode !== 0 && task.exitCode !== null ? 'failed' : state;
}

export function showState(element, task) {
  const state = stateOf(task);
  setText(element, stateText(task, state));
  setData(element, 'state', state);
  setData(element, 'tone', toneOf(task, state));
  setData(element, 'exitCode', task.exitCode ?? '');
}

// === The table ===

const SORT_KEYS = {
  state: (task) => STATES.indexOf(stateOf(task)),
  id: (task) => task.id,
  action: (task) => task.action,
  pid: (task) => task.pid,
  restarts: (task) => task.restarts,
  started: (task) => task.startedAt ?? 0,
  ended: (task) => (task.workerState === 'exited' ? (task.exitedAt ?? 0) : 0),
};

/** Columns whose first click shows the largest value first. */
const LARGEST_FIRST = new Set(['pid', 'restarts', 'started', 'ended']);

const collator = new Intl.Collator(undefined, { numeric: true });
const SPARE_ROWS = 8;
const STEADY_MS = 800;

/** Filters, sorts and shows the tasks of a store. Rows outside the visible window exist only as blank height. */
export class TaskTable {
  /** @param {object} on callbacks: `open(id)`, `act(verb, id)`, `counted(counts, total, shown)`. */
  constructor(store, on) {
    this.store = store;
    this.on = on;
    this.grid = byId('tasks-grid');
    this.body = byId('tasks-body');
    this.scroller = byId('tasks-scroller');
    this.template = byId('row-template').content.firstElementChild;
    this.above = spacer();
    this.below = spacer();
    this.body.append(this.above, this.below);
    this.rows = new Map();
    this.order = [];
    this.needle = '';
    this.wanted = 'all';
    this.sort = null;
    this.selected = null;
    this.canRemove = false;
    this.empty = '';
    this.rowHeight = 0;
    this.steadyUntil = 0;
    this.settleTimer = 0;
    this.#listen();
  }

  setFilter(text) {
    this.needle = text.trim().toLowerCase();
    this.scroller.scrollTop = 0;
    this.refresh();
  }

  setState(state) {
    this.wanted = state;
    this.scroller.scrollTop = 0;
    this.refresh();
  }

  select(id) {
    this.selected = id;
    this.paint();
  }

  /** Filters and sorts anew, then paints. */
  refresh() {
    clearTimeout(this.settleTimer);
    this.settleTimer = 0;
    this.order = [...this.store.tasks.values()].filter((task) => this.#isWanted(task)).sort(this.#comparison());
    this.grid.setAttribute('aria-rowcount', this.order.length + 1);
    this.#showEmptiness();
    this.#count();
    this.paint();
  }

  /** Shows what events changed. While the pointer moves over the rows they keep their places, or a click would miss. */
  update() {
    const steadyFor = this.steadyUntil - performance.now();
    if (steadyFor <= 0 || this.order.length === 0) return this.refresh();
    this.order = this.order.filter((task) => this.store.get(task.id) === task);
    this.settleTimer ||= setTimeout(() => this.refresh(), steadyFor);
    this.#count();
    this.paint();
  }

  #count() {
    const counts = Object.fromEntries(STATES.map((state) => [state, 0]));
    for (const task of this.store.tasks.values()) counts[stateOf(task)] += 1;
    this.on.counted(counts, this.store.tasks.size, this.order.length);
  }

  /** Brings the visible window up to date. Cheap: touches some dozens of rows, and of those only what differs. */
  paint() {
    const { first, last } = this.#window();
    const keep = new Set();
    let before = this.above;
    for (let index = first; index < last; index++) {
      const task = this.order[index];
      const row = this.rows.get(task.id) ?? this.#newRow(task);
      keep.add(task.id);
      this.#fill(row, task, index);
      if (before.nextSibling !== row) before.after(row);
      before = row;
    }
    for (const [id, row] of this.rows) {
      if (keep.has(id)) continue;
      row.remove();
      this.rows.delete(id);
    }
    setHeight(this.above, first * this.rowHeight);
    setHeight(this.below, (this.order.length - last) * this.rowHeight);
    this.#markActive();
  }

  #window() {
    this.rowHeight ||= this.#measureRow();
    const top = Math.max(0, this.scroller.scrollTop);
    const first = Math.max(0, Math.min(this.order.length, Math.floor(top / this.rowHeight) - SPARE_ROWS));
    const count = Math.ceil(this.scroller.clientHeight / this.rowHeight) + 2 * SPARE_ROWS;
    return { first, last: Math.min(this.order.length, first + count) };
  }

  #measureRow() {
    const probe = this.template.cloneNode(true);
    this.body.append(probe);
    const height = probe.getBoundingClientRect().height;
    probe.remove();
    return height || 36;
  }

  #newRow(task) {
    const row = this.template.cloneNode(true);
    row.id = `task-row-${task.serial}`;
    row.dataset.taskId = task.id;
    // Rows are found once and kept: querying eight cells of every row in each frame would show.
    row.parts = {
      state: row.querySelector('.state'),
      id: row.querySelector('.c-id'),
      action: row.querySelector('.c-action'),
      pid: row.querySelector('.c-pid'),
      restarts: row.querySelector('.c-restarts'),
      started: row.querySelector('.c-started time'),
      ended: row.querySelector('.c-ended time'),
      buttons: Object.fromEntries([...row.querySelectorAll('button')].map((button) => [button.dataset.do, button])),
    };
    this.rows.set(task.id, row);
    return row;
  }

  #fill(row, task, index) {
    const cell = row.parts;
    showState(cell.state, task);
    setText(cell.id, task.id);
    if (cell.id.title !== task.id) cell.id.title = task.id;
    setText(cell.action, task.action);
    if (cell.action.title !== task.action) cell.action.title = task.action;
    setText(cell.pid, task.pid ? String(task.pid) : '–');
    setText(cell.restarts, String(task.restarts));
    showTime(cell.started, task.startedAt);
    showTime(cell.ended, task.workerState === 'exited' ? task.exitedAt : null);
    const allowed = allowedVerbs(task, this.canRemove);
    for (const [verb, button] of Object.entries(cell.buttons)) {
      button.hidden = !allowed.has(verb);
      setLabel(button, `${button.textContent} ${task.id}`);
    }
    row.setAttribute('aria-rowindex', index + 2);
    row.setAttribute('aria-selected', task.id === this.selected);
  }

  #markActive() {
    const row = this.selected === null ? null : this.rows.get(this.selected);
    if (row) this.grid.setAttribute('aria-activedescendant', row.id);
    else this.grid.removeAttribute('aria-activedescendant');
  }

  #isWanted(task) {
    if (this.wanted !== 'all' && this.wanted !== stateOf(task)) return false;
    if (!this.needle) return true;
    const has = (text) => text.toLowerCase().includes(this.needle);
    return (
      has(task.id) || has(task.action) || String(task.pid) === this.needle || Object.values(task.params ?? {}).some(has)
    );
  }

  /** Unsorted means newest first, by creation: the one order in which a restart does not move a row. */
  #comparison() {
    const newest = (a, b) => (b.createdAt ?? 0) - (a.createdAt ?? 0) || b.serial - a.serial;
    if (!this.sort) return newest;
    const key = SORT_KEYS[this.sort.key];
    const sign = this.sort.descending ? -1 : 1;
    const compare = this.sort.key === 'id' || this.sort.key === 'action' ? collator.compare : (a, b) => a - b;
    return (a, b) => sign * compare(key(a), key(b)) || newest(a, b);
  }

  #showEmptiness() {
    const note = byId('tasks-empty');
    note.hidden = this.order.length > 0;
    setText(note, this.store.tasks.size > 0 ? 'No task matches the filter.' : this.empty);
  }

  #toggleSort(key) {
    const firstDescending = LARGEST_FIRST.has(key);
    if (this.sort?.key !== key) this.sort = { key, descending: firstDescending };
    else if (this.sort.descending === firstDescending) this.sort = { key, descending: !firstDescending };
    else this.sort = null;
    for (const header of this.grid.querySelectorAll('th')) {
      const sorted = this.sort && header.querySelector('button')?.dataset.sort === this.sort.key;
      if (sorted) header.setAttribute('aria-sort', this.sort.descending ? 'descending' : 'ascending');
      else header.removeAttribute('aria-sort');
    }
    this.refresh();
  }

  #listen() {
    let painting = false;
    const paintSoon = () => {
      if (painting) return;
      painting = true;
      requestAnimationFrame(() => {
        painting = false;
        this.paint();
      });
    };
    this.scroller.addEventListener('scroll', paintSoon, { passive: true });
    this.scroller.addEventListener('pointermove', () => (this.steadyUntil = performance.now() + STEADY_MS));
    new ResizeObserver(() => {
      this.rowHeight = 0;
      paintSoon();
    }).observe(this.scroller);
    this.grid.addEventListener('click', (event) => this.#click(event));
    this.grid.addEventListener('keydown', (event) => this.#key(event));
  }

  #click(event) {
    const button = event.target.closest('button');
    if (button?.dataset.sort) return this.#toggleSort(button.dataset.sort);
    const id = event.target.closest('tr.row')?.dataset.taskId;
    if (id === undefined) return;
    if (button) this.on.act(button.dataset.do, id);
    else this.on.open(id);
  }

  #key(event) {
    if (event.target !== this.grid || event.ctrlKey || event.metaKey || event.altKey || this.order.length === 0) return;
    const page = Math.max(1, Math.floor(this.scroller.clientHeight / this.rowHeight) - 2);
    const step = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity }[
      event.key
    ];
    if (step === undefined) return;
    event.preventDefault();
    const at = this.order.findIndex((task) => task.id === this.selected);
    const from = at === -1 ? (step > 0 ? -1 : this.order.length) : at;
    const to = Math.min(this.order.length - 1, Math.max(0, from + step));
    this.on.open(this.order[to].id);
    this.#reveal(to);
  }

  #reveal(index) {
    const head = this.grid.tHead.getBoundingClientRect().height;
    const top = index * this.rowHeight;
    const lowest = top + this.rowHeight + head - this.scroller.clientHeight;
    if (top < this.scroller.scrollTop) this.scroller.scrollTop = top;
    else if (lowest > this.scroller.scrollTop) this.scroller.scrollTop = lowest;
  }
}

/**
 * What may be asked of a task now. A second stop is never offered: it changes nothing, and it crashes the original
 * daemon.
 */
export function allowedVerbs(task, canRemove) {
  const state = stateOf(task);
  const verbs = new Set();
  if (state === 'running' || state === 'queued' || state === 'waiting') verbs.add('stop');
  if (state === 'errored') verbs.add('reset');
  if (canRemove && (state === 'errored' || state === 'exited' || state === 'stopped')) verbs.add('remove');
  return verbs;
}

function setHeight(row, height) {
  const text = `${height}px`;
  if (row.firstElementChild.style.height !== text) row.firstElementChild.style.height = text;
}

function spacer() {
  const row = document.createElement('tr');
  row.className = 'spacer';
  row.setAttribute('aria-hidden', 'true');
  row.append(document.createElement('td'));
  return row;
}
