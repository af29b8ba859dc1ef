// The page of an overseerctl hub: joins the connection (wire.js), the tasks (tasks.js), the output (output.js) and the
// pools (pools.js) to the document, and holds what belongs to no single one of them: header, addresses, detail, start
// form. basics.js serves all of them.
//
// It speaks the daemon's ordinary protocol and nothing else. A daemon that grants the feature `task_events` tells every
// change by itself; an original sticky-overseer v2 does not know `hello`, so there the page subscribes to each live
// task and lists all tasks every two seconds.
//
// For tests, these names are kept stable:
//   body[data-connection]  connecting | live | lost | refused
//   body[data-mode]        events | polling, once the first list has arrived; absent before
//   body[data-tasks]       number of tasks known
//   body[data-view]        tasks | pools
//   #connection-text #server-name #server-version #count-{running,queued,waiting,errored,total} #reconnect
//   #token-form #token-input #token-message
//   #task-filter #tasks-grid #tasks-status #tasks-empty, #state-filter input[value=all|STATE], th button[data-sort]
//   tr.row[data-task-id] (only rows in the visible window exist), in it .state[data-state][data-exit-code], .c-id,
//     .c-action, .c-pid, .c-restarts, .c-started, .c-ended, button[data-do=stop|reset|remove]
//     data-state: running | stopping | queued | waiting | errored | exited | stopped
//   #detail[data-task-id] #detail-id #detail-state #detail-{stop,reset,remove,again,close} #detail-note,
//     #detail-facts [data-fact=NAME] with the names of FACTS below
//   #output .line[data-seq] (.err for stderr, .mark for lifecycle notes, [data-gap] before missing lines)
//   #output-{follow,search,hits,prev,next,wrap,times,copy,clear,notice,empty,resume}
//   #start-open #start-dialog #start-form #start-action #start-task-id #start-force #start-submit #start-error,
//     #start-params [data-param=NAME], #retry-enabled #retry-{delay,jitter,threshold,window}
//   .pool[data-pool=NAME] ("" is the global pool), in it [data-gauge=running|queue] .gauge-text and [role=meter]
//     (hidden without a limit), .queue-items li, .pool-form [name=limit|queue_size|order], .purge,
//     .numbers [data-metric=NAME]
//   #metrics-global [data-metric=NAME]
//   #confirm-dialog #confirm-yes, .toast[data-kind=info|error]
// Addresses: #/tasks, #/task/ID, #/pools; ?token=TOKEN once.

import { Wire, adoptTokenFromAddress, hasToken, storage, uuid } from './wire.js';
import { DURATION, byId, countOf, figure, make, noteServerTime, serverNow, setText, showTime, span } from './basics.js';
import { STATES, TaskStore, TaskTable, allowedVerbs, showState, stateOf } from './tasks.js';
import { OutputView } from './output.js';
import { Pools, showMetrics } from './pools.js';

const WANTED_FEATURES = ['acks', 'remove', 'task_events'];
const POLL_MS = 2_000;
/** With `task_events` the list is a check only: a stop that meets no process changes the state without an event. */
const CHECK_MS = 30_000;
const REFRESH_MS = 150;

const store = new TaskStore();
const wire = new Wire({ state: showConnection, open: openSession, message: takeMessage });
const output = new OutputView(wire);
const pools = new Pools(wire, { open: showTask, confirm, toast, describe: describeActions });
const table = new TaskTable(store, { open: showTask, act, counted: showCounts });

// === Session: what this connection knows ===

const session = {
  /** True when the daemon sends every task's events unasked. */
  events: false,
  actions: [],
  subscribed: new Set(),
  listing: false,
  listedAt: 0,
  askedAt: 0,
};

async function openSession() {
  session.subscribed.clear();
  session.listing = false;
  try {
    const hello = await wire.request('hello', { features: WANTED_FEATURES }).catch(noHello);
    const features = new Set(hello?.features ?? []);
    session.events = features.has('task_events');
    table.canRemove = features.has('remove');
    const [manifest, described] = await Promise.all([wire.request('manifest'), wire.request('describe'), listTasks()]);
    showServer(hello, manifest.manifest);
    takeActions(described.actions);
    document.body.dataset.mode = session.events ? 'events' : 'polling';
    byId('start-open').disabled = session.actions.length === 0;
    store.unknownSince = null;
    if (route.taskId !== null) attachOutput(route.taskId);
    refreshAll();
  } catch (error) {
    // A loss in the middle is told by the connection state already.
    if (!error.lost) toast(`The daemon refused the page's first requests: ${error.message}`, 'error');
  }
}

function noHello(error) {
  if (error.lost) throw error;
  return null;
}

function takeMessage(msg) {
  if (msg.type === 'output') return output.take(msg);
  const id = store.apply(msg);
  if (id !== null) {
    if (msg.type === 'started' || msg.type === 'queued') {
      noteServerTime(msg.ts);
      noteOwnStart(msg);
    }
    if (detail.gone && id === route.taskId) reviveDetail();
    output.take(msg);
    if (msg.type === 'dequeued' && id === route.taskId)
      noteDetail(`It left the queue: ${msg.reason ?? 'no reason given'}.`);
    if (msg.type === 'task_removed' && id === route.taskId) noteDetail('It was removed from the daemon.');
    refreshSoon();
  } else if (msg.type === 'pool_updated') {
    pools.take(msg);
  } else if (msg.type === 'error' && !wire.pending.has(msg.id)) {
    toast(msg.message, 'error');
  }
}

/** The daemon subscribes whoever starts a task; with `task_events` only the shown task's output is wanted. */
function noteOwnStart(msg) {
  if (!wire.isOwn(msg.id)) return;
  session.subscribed.add(msg.task_id);
  const wanted = msg.task_id === route.taskId || output.early.has(msg.task_id);
  if (session.events && msg.type === 'started' && !wanted) unsubscribe(msg.task_id);
}

function unsubscribe(taskId) {
  session.subscribed.delete(taskId);
  wire.request('unsubscribe', { task_id: taskId }).catch(() => {});
}

/** Lists all tasks, or those active since an instant. */
async function listTasks(since = null) {
  if (session.listing) return;
  session.listing = true;
  const mark = store.clock;
  try {
    const reply = await wire.request('list', since === null ? {} : { since: new Date(since).toISOString() });
    const gone = store.merge(reply.tasks, mark, since === null);
    if (since === null) session.listedAt = performance.now();
    if (!session.events) subscribeToLiveTasks();
    if (store.get(route.taskId) && (detail.gone || gone.includes(route.taskId))) reviveDetail();
    refreshSoon();
  } finally {
    session.listing = false;
  }
}

function subscribeToLiveTasks() {
  for (const task of store.tasks.values()) {
    if (session.subscribed.has(task.id)) continue;
    const state = stateOf(task);
    if (state === 'exited' || state === 'stopped' || state === 'errored') continue;
    session.subscribed.add(task.id);
    wire.request('subscribe', { task_id: task.id }).catch(() => {});
  }
}

/** Everything that is asked again and again hangs on this one clock. */
function tick() {
  refreshTimes();
  if (wire.state !== 'live' || document.body.dataset.mode === undefined) return;
  const now = performance.now();
  if (!session.listing) {
    if (now - session.listedAt >= (session.events ? CHECK_MS : POLL_MS)) listTasks().catch(() => {});
    else if (store.unknownSince !== null) listUnknown();
  }
  if (now - session.askedAt < POLL_MS || document.hidden) return;
  session.askedAt = now;
  askMetrics();
  if (route.view === 'pools') pools.ask();
  if (route.taskId !== null) askAboutDetail(route.taskId);
}

function listUnknown() {
  const since = store.unknownSince - 1_000;
  store.unknownSince = null;
  listTasks(since).catch(() => {});
}

// === Header ===

let reconnectAt = 0;

function showConnection(state, detail, retryAt = 0) {
  document.body.dataset.connection = state;
  reconnectAt = state === 'lost' ? retryAt : 0;
  byId('reconnect').hidden = state !== 'lost';
  setText(byId('connection-text'), state);
  byId('connection').title = state === 'lost' && detail ? detail : '';
  if (state !== 'live') {
    delete document.body.dataset.mode;
    byId('start-open').disabled = true;
    output.suspend();
  }
  askForToken(state === 'refused' ? detail : 0);
}

function showReconnect() {
  if (reconnectAt === 0) return;
  const seconds = Math.ceil((reconnectAt - performance.now()) / 1_000);
  setText(byId('connection-text'), seconds > 0 ? `lost, next try in ${seconds} s` : 'lost');
}

function askForToken(status) {
  const form = byId('token-form');
  const asked = status !== 0;
  if (asked && form.hidden) {
    const message =
      status === 403
        ? 'The daemon does not let this browser in (403). If it takes a token, enter it:'
        : hasToken()
          ? 'The daemon did not accept the token. Enter another:'
          : 'The daemon asks for a token:';
    setText(byId('token-message'), message);
    form.hidden = false;
    byId('token-input').focus();
  }
  if (!asked) form.hidden = true;
}

function showServer(hello, manifest) {
  const name = hello?.server ?? manifest.protocol ?? 'overseer';
  setText(byId('server-name'), name);
  setText(byId('server-version'), hello?.version ?? manifest.version ?? '');
  document.body.dataset.server = name;
}

function showCounts(counts, total, shown) {
  for (const state of ['running', 'queued', 'waiting', 'errored']) showCount(state, counts[state]);
  showCount('total', total);
  document.body.dataset.tasks = total;
  const telling = ['errored', 'running'].find((state) => counts[state] > 0);
  document.title = telling ? `${counts[telling]} ${telling} · ${serverName()}` : serverName();
  for (const label of byId('state-filter').querySelectorAll('label')) {
    const state = label.dataset.state;
    const count = state === 'all' ? total : counts[state];
    setText(label.querySelector('.chip-count'), figure(count));
    label.hidden = count === 0 && state !== 'all' && !label.querySelector('input').checked;
  }
  setText(byId('tasks-status'), `${shown === total ? '' : `${figure(shown)} of `}${countOf(total, 'task')}`);
}

function showCount(name, value) {
  const element = byId(`count-${name}`);
  setText(element, figure(value));
  element.parentElement.classList.toggle('zero', value === 0);
}

const serverName = () => byId('server-name').textContent;

// === Refreshing ===

let refreshTimer = 0;

/** Batches a burst of events into one filtering and sorting. */
function refreshSoon() {
  refreshTimer ||= setTimeout(() => requestAnimationFrame(refreshAll), REFRESH_MS);
}

function refreshAll() {
  clearTimeout(refreshTimer);
  refreshTimer = 0;
  // Events that overtake the first list know only some of the tasks.
  if (document.body.dataset.mode === undefined) return;
  const startable = session.actions.length > 0;
  table.empty = startable ? 'No tasks yet.' : 'No tasks, and no actions to start any: the daemon has none configured.';
  table.update();
  showDetail();
}

function refreshTimes() {
  showReconnect();
  if (document.hidden) return;
  if (route.view === 'tasks') table.paint();
  showDetail();
}

// === Addresses ===

const route = { view: 'tasks', taskId: null };

const taskPath = (id) => `#/task/${encodeURIComponent(id)}`;

function showTask(id) {
  goTo(taskPath(id));
}

function goTo(path) {
  if (location.hash === path) return;
  // Walking through the list should not fill the history with every task on the way.
  const walking = route.taskId !== null && path.startsWith('#/task/');
  history[walking ? 'replaceState' : 'pushState'](null, '', path);
  readRoute();
}

function readRoute() {
  const [, view, id] = /^#\/(tasks|pools|task)(?:\/(.*))?$/.exec(location.hash) ?? [null, 'tasks'];
  const taskId = view === 'task' && id ? decodeId(id) : null;
  route.view = view === 'pools' ? 'pools' : 'tasks';
  document.body.dataset.view = route.view;
  for (const name of ['tasks', 'pools']) {
    byId(`view-${name}`).hidden = name !== route.view;
    if (name === route.view) byId(`tab-${name}`).setAttribute('aria-current', 'page');
    else byId(`tab-${name}`).removeAttribute('aria-current');
  }
  // The pools view covers the tasks; the task below stays open.
  if (route.view === 'tasks') openTask(taskId);
  else if (wire.state === 'live') pools.ask();
  session.askedAt = 0;
}

function decodeId(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

// === Detail of the selected task ===

function openTask(id) {
  if (id === route.taskId) return;
  closeOutput();
  route.taskId = id;
  byId('detail').hidden = id === null;
  byId('view-tasks').dataset.detail = id === null ? 'closed' : 'open';
  byId('tab-tasks').href = id === null ? '#/tasks' : taskPath(id);
  detail.metrics = null;
  detail.gone = false;
  noteDetail('');
  if (id !== null) {
    byId('detail').dataset.taskId = id;
    setText(byId('detail-id'), id);
    byId('detail-id').title = id;
    if (document.body.dataset.mode) attachOutput(id);
  }
  table.select(id);
  showDetail();
}

const detail = {
  metrics: null,
  /** True once the daemon said that it knows no task of the shown id. */
  gone: false,
};

async function attachOutput(id) {
  session.subscribed.add(id);
  const fence = await output.attach(id);
  if (fence && route.taskId === id) {
    detail.metrics = fence.task ?? null;
    showDetail();
  }
}

function closeOutput() {
  const id = route.taskId;
  output.detach();
  if (id !== null && session.events && session.subscribed.has(id)) unsubscribe(id);
}

/** The id now belongs to another task: the daemon was restarted, or the task removed, and the id used anew. */
function reviveDetail() {
  if (!store.get(route.taskId)) return;
  detail.gone = false;
  noteDetail('');
  output.detach();
  if (document.body.dataset.mode) attachOutput(route.taskId);
}

async function askAboutDetail(id) {
  const task = store.get(id);
  if (!task) return;
  if (task.state === 'queued') return askPosition(task);
  const reply = await wire.request('metrics', { task_id: id }).catch(() => null);
  if (reply && route.taskId === id) detail.metrics = reply.task ?? null;
}

async function askPosition(task) {
  const reply = await wire.request('pool_info', { action: task.action }).catch(() => null);
  const item = reply?.pool.queue_items?.find((queued) => queued.task_id === task.id);
  // Counted from 0 here, but from 1 in the `queued` message.
  if (item) task.position = item.position + 1;
}

function showDetail() {
  if (route.taskId === null) return;
  const task = store.get(route.taskId);
  const allowed = task ? allowedVerbs(task, table.canRemove) : new Set();
  for (const verb of ['stop', 'reset', 'remove']) {
    byId(`detail-${verb}`).disabled = !allowed.has(verb) || wire.state !== 'live';
  }
  byId('detail-remove').hidden = !table.canRemove;
  byId('detail-again').disabled = !task || byId('start-open').disabled;
  const state = byId('detail-state');
  state.hidden = !task;
  byId('detail-facts').hidden = !task;
  if (!task) {
    detail.gone = document.body.dataset.mode !== undefined;
    if (detail.gone && byId('detail-note').hidden) noteDetail('The daemon knows no task of this id.');
    return;
  }
  showState(state, task);
  for (const [name, show] of Object.entries(FACTS)) showFact(name, show(task));
}

/** The facts of a task, by name: a text, an instant as `{at}`, or null for none. */
const FACTS = {
  action: (task) => task.action,
  pid: (task) => (task.pid ? String(task.pid) : null),
  position: (task) => (task.state === 'queued' && task.position > 0 ? String(task.position) : null),
  queued: (task) => (task.state === 'queued' && task.queuedAt ? { at: task.queuedAt } : null),
  started: (task) => (task.startedAt ? { at: task.startedAt } : null),
  ended: (task) => (hasEnded(task) ? { at: task.exitedAt } : null),
  ran: (task) => (hasEnded(task) && task.startedAt ? span(task.exitedAt - task.startedAt) : null),
  exit: (task) => (hasEnded(task) && task.exitCode !== null ? String(task.exitCode) : null),
  restart: (task) => (stateOf(task) === 'waiting' && task.restartAt ? restartText(task) : null),
  restarts: (task) => String(task.restarts),
  output: (task) => (detail.metrics && task.state !== 'queued' ? countOf(detail.metrics.output_lines, 'line') : null),
  retry: (task) => (task.retry ? retryText(task.retry) : null),
  params: (task) => paramsText(task.params ?? {}) || null,
  error: (task) => task.errorMessage || null,
};

const FACT_LABELS = {
  pid: 'PID',
  position: 'place in queue',
  ran: 'ran for',
  exit: 'exit code',
  restart: 'next restart',
  retry: 'restart policy',
  params: 'parameters',
};

const hasEnded = (task) => task.workerState === 'exited' && task.exitedAt !== null;

function paramsText(params) {
  return Object.entries(params)
    .map(([name, value]) => `${name}=${value}`)
    .join('\n');
}

function showFact(name, value) {
  const list = byId('detail-facts');
  let pair = list.querySelector(`[data-fact="${name}"]`);
  if (!pair) {
    pair = make('div', { fact: name }, make('dt', {}, FACT_LABELS[name] ?? name), make('dd', {}));
    list.append(pair);
  }
  pair.hidden = value === null;
  if (value === null) return;
  const field = pair.lastElementChild;
  if (typeof value === 'string') return setText(field, value);
  if (!field.firstElementChild) field.replaceChildren(make('time', {}));
  showTime(field.firstElementChild, value.at);
}

function restartText(task) {
  const wait = task.restartAt - serverNow();
  return `no. ${task.attempt}, ${wait > 0 ? `in ${span(wait)}` : 'due'}`;
}

function retryText(policy) {
  const delay = policy.restart_delay ? `after ${policy.restart_delay}` : 'at once';
  const jitter = policy.restart_jitter ? ` plus up to ${policy.restart_jitter}` : '';
  const window = policy.error_window ? ` within ${policy.error_window}` : '';
  const limit = policy.error_threshold
    ? `errored at ${countOf(policy.error_threshold, 'exit')}${window}`
    : 'without end';
  return `restarts ${delay}${jitter}; ${limit}`;
}

function noteDetail(text) {
  const note = byId('detail-note');
  note.hidden = text === '';
  setText(note, text);
}

// === Asking something of a task ===

const ACTS = {
  stop: stopTask,
  reset: (id) => wire.request('reset', { task_id: id }),
  remove: removeTask,
  again: async (id) => startForm.open(store.get(id)),
};

async function act(verb, id) {
  try {
    await ACTS[verb](id);
  } catch (error) {
    toast(`${verb} ${id}: ${error.message}`, 'error');
  }
  refreshAll();
}

async function stopTask(id) {
  const task = store.get(id);
  const hasWorker = task?.workerState === 'running';
  if (hasWorker) store.askedToStop(id);
  refreshAll();
  const stopped = wire.request('stop', { task_id: id });
  // A stop may have no reply, and one that meets no process has no event either: the list is fence and news in one.
  listTasks().catch(() => {});
  try {
    await stopped;
  } catch (error) {
    if (task) task.stopAsked = false;
    throw error;
  }
}

async function removeTask(id) {
  const text = 'The daemon forgets the task, its counters and its kept output. The id becomes free.';
  const sure = await confirm(`Remove ${id}?`, text, 'Remove');
  if (!sure) return;
  await wire.request('remove', { task_id: id });
  store.remove(id);
  if (route.taskId === id) goTo('#/tasks');
}

// === Start form ===

const startForm = {
  /** Opens the form, filled like `task` when one is given. */
  open(task = null) {
    const select = byId('start-action');
    const chosen = task?.action ?? select.value;
    select.replaceChildren(...session.actions.map((action) => new Option(action.name, action.name)));
    if (session.actions.some((action) => action.name === chosen)) select.value = chosen;
    byId('start-task-id').value = '';
    byId('start-error').hidden = true;
    byId('start-force').checked = false;
    this.showAction(task?.params ?? null);
    this.fillRetry(task?.retry ?? null);
    byId('start-dialog').showModal();
    (byId('start-params').querySelector('textarea') ?? select).focus();
  },

  action() {
    return session.actions.find((action) => action.name === byId('start-action').value);
  },

  showAction(params = null) {
    const action = this.action();
    const specs = Object.entries(action.params ?? {}).sort(requiredFirst);
    const fields = byId('start-params');
    fields.hidden = specs.length === 0;
    fields.replaceChildren(
      fields.firstElementChild,
      ...specs.map(([name, spec]) => paramField(name, spec, params?.[name])),
    );
    setText(byId('start-about'), aboutAction(action));
    const configured = action.retry && Object.keys(action.retry).length > 0;
    const otherwise = configured
      ? `Configured for this action: ${retryText(action.retry)}.`
      : 'Without a policy a task runs once.';
    setText(byId('retry-hint'), `Any exit that nobody asked for is followed by a restart, exit 0 too. ${otherwise}`);
  },

  fillRetry(policy) {
    byId('retry-enabled').checked = policy !== null;
    byId('retry-fields').disabled = policy === null;
    byId('start-retry').open = policy !== null;
    byId('retry-delay').value = policy?.restart_delay ?? '';
    byId('retry-jitter').value = policy?.restart_jitter ?? '';
    byId('retry-window').value = policy?.error_window ?? '';
    byId('retry-threshold').value = policy?.error_threshold || '';
  },

  message() {
    const message = { action: this.action().name, task_id: byId('start-task-id').value.trim() || uuid() };
    const params = {};
    for (const field of byId('start-params').querySelectorAll('[data-param]')) {
      // An unchanged default is the daemon's to fill in: a sent value would count in the duplicate check.
      if (field.value !== field.defaultValue || field.required) params[field.dataset.param] = field.value;
    }
    if (Object.keys(params).length > 0) message.params = params;
    if (byId('start-force').checked) message.force = true;
    if (byId('retry-enabled').checked) message.retry_policy = retryPolicy();
    return message;
  },

  async submit() {
    const form = byId('start-form');
    for (const field of form.querySelectorAll('[data-duration]')) checkDuration(field);
    const invalid = form.querySelector(':invalid:not(fieldset)');
    if (invalid?.closest('details')) invalid.closest('details').open = true;
    if (!form.reportValidity()) return;
    const message = this.message();
    byId('start-submit').disabled = true;
    byId('start-error').hidden = true;
    try {
      await this.send(message);
    } catch (error) {
      this.showError(error);
    } finally {
      byId('start-submit').disabled = false;
    }
  },

  /** Subscribes before it starts: a quick task would else be over before its output is asked for. */
  async send(message) {
    const id = message.task_id;
    output.expect(id);
    session.subscribed.add(id);
    wire.request('subscribe', { task_id: id }).catch(() => {});
    try {
      await wire.request('start', message);
      store.describe(id, message);
      byId('start-dialog').close();
      showTask(id);
    } catch (error) {
      if (!store.get(id)) unsubscribeIfLive(id);
      throw error;
    } finally {
      output.forget(id);
    }
  },

  showError(error) {
    const box = byId('start-error');
    const existing = error.reply?.existing_task_id;
    box.replaceChildren(error.message);
    if (existing) {
      const link = make('button', {}, 'Show it');
      link.type = 'button';
      link.addEventListener('click', () => {
        byId('start-dialog').close();
        showTask(existing);
      });
      box.append(' ', link);
    }
    box.hidden = false;
  },
};

function unsubscribeIfLive(id) {
  session.subscribed.delete(id);
  if (wire.state === 'live') unsubscribe(id);
}

const isRequired = (spec) => spec?.default === undefined;

function requiredFirst([a, left], [b, right]) {
  return isRequired(right) - isRequired(left) || a.localeCompare(b);
}

function paramField(name, spec, value) {
  const id = `param-${name}`;
  const required = isRequired(spec);
  const label = make('label', {}, name, ' ', make('span', {}, required ? 'required' : 'optional'));
  label.htmlFor = id;
  label.lastElementChild.className = 'dim';
  const input = make('textarea', { param: name });
  Object.assign(input, { id, name: id, rows: 1, required, spellcheck: false, className: 'mono' });
  input.defaultValue = spec?.default ?? '';
  if (value !== undefined) input.value = value;
  const field = make('div', {}, label, input);
  field.className = 'field';
  if (spec?.validate) {
    const hint = make('p', {}, 'must satisfy ', make('code', {}, spec.validate));
    hint.className = 'hint';
    hint.id = `${id}-hint`;
    input.setAttribute('aria-describedby', hint.id);
    field.append(hint);
  }
  return field;
}

function aboutAction(action) {
  const { limit = 0, queue } = action.task_pool ?? {};
  const terms = [
    `type ${action.type}`,
    limit > 0 ? `at most ${figure(limit)} at a time` : null,
    queue?.enabled ? `then a queue${queue.size > 0 ? ` of ${figure(queue.size)}` : ''}` : null,
    action.dedupe_key?.length ? `one running task for each ${action.dedupe_key.join(', ')}` : null,
  ];
  return [action.description, terms.filter(Boolean).join(' · ')].filter(Boolean).join('\n');
}

function retryPolicy() {
  const policy = {};
  const set = (key, field) => byId(field).value.trim() && (policy[key] = byId(field).value.trim());
  set('restart_delay', 'retry-delay');
  set('restart_jitter', 'retry-jitter');
  set('error_window', 'retry-window');
  const threshold = byId('retry-threshold').valueAsNumber;
  if (threshold > 0) policy.error_threshold = threshold;
  return policy;
}

function checkDuration(field) {
  const text = field.value.trim();
  const bad = text !== '' && !DURATION.test(text);
  field.setCustomValidity(bad ? `“${text}” is not a duration: write it like 500ms, 2s or 1m30s` : '');
}

// === Actions and metrics ===

async function describeActions() {
  takeActions((await wire.request('describe')).actions);
}

function takeActions(actions) {
  session.actions = actions.sort((a, b) => a.name.localeCompare(b.name));
  pools.setActions(session.actions);
}

async function askMetrics() {
  const reply = await wire.request('metrics').catch(() => null);
  if (reply?.global) showMetrics(byId('metrics-global'), reply.global);
}

// === Dialogs and messages ===

function confirm(title, text, yes) {
  const dialog = byId('confirm-dialog');
  setText(byId('confirm-title'), title);
  setText(byId('confirm-text'), text);
  setText(byId('confirm-yes'), yes);
  dialog.returnValue = 'no';
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true });
  });
}

function toast(text, kind = 'info') {
  const close = make('button', {}, '✕');
  close.type = 'button';
  close.className = 'quiet';
  close.setAttribute('aria-label', 'Dismiss');
  const note = make('div', { kind }, make('span', {}, text), close);
  note.className = 'toast';
  if (kind === 'error') note.setAttribute('role', 'alert');
  close.addEventListener('click', () => note.remove());
  const toasts = byId('toasts');
  toasts.append(note);
  while (toasts.childElementCount > 4) toasts.firstElementChild.remove();
  setTimeout(() => note.remove(), kind === 'error' ? 12_000 : 5_000);
}

// === Boot ===

function buildStateFilter() {
  const fieldset = byId('state-filter');
  for (const state of ['all', ...STATES]) {
    const input = make('input', {});
    Object.assign(input, { type: 'radio', name: 'state', value: state, checked: state === 'all' });
    const count = make('span', {}, '0');
    count.className = 'chip-count';
    const label = make('label', { state }, input, make('span', {}, state), ' ', count);
    label.hidden = state !== 'all';
    fieldset.append(label);
  }
  fieldset.addEventListener('change', (event) => table.setState(event.target.value));
}

/** A button that stays pressed, and remembers it beyond this visit. */
function toggle(id, key, apply) {
  const button = byId(id);
  const set = (on) => {
    button.setAttribute('aria-pressed', on);
    apply(on);
  };
  const preferences = storage('localStorage');
  const kept = preferences.getItem(key);
  if (kept !== null) set(kept === 'true');
  button.addEventListener('click', () => {
    const on = button.getAttribute('aria-pressed') !== 'true';
    preferences.setItem(key, on);
    set(on);
  });
}

function listenToOutputTools() {
  byId('output-follow').addEventListener('click', () => output.follow(!output.following));
  byId('output-resume').addEventListener('click', () => output.follow(true));
  byId('output-clear').addEventListener('click', () => output.clear());
  byId('output-copy').addEventListener('click', async () => {
    try {
      const lines = await output.copy();
      toast(`${countOf(lines, 'line')} copied.`);
    } catch (error) {
      toast(`Nothing was copied: ${error.message}`, 'error');
    }
  });
  byId('output-search').addEventListener('input', (event) => output.find(event.target.value));
  byId('output-search').addEventListener('keydown', (event) => {
    if (event.key !== 'Enter') return;
    event.preventDefault();
    output.jump(event.shiftKey ? -1 : 1);
  });
  byId('output-prev').addEventListener('click', () => output.jump(-1));
  byId('output-next').addEventListener('click', () => output.jump(1));
  toggle('output-wrap', 'overseerctl.wrap', (on) => output.wrap(on));
  toggle('output-times', 'overseerctl.times', (on) => output.showTimes(on));
}

function listenToStartForm() {
  const form = byId('start-form');
  byId('start-open').addEventListener('click', () => startForm.open());
  byId('start-action').addEventListener('change', () => startForm.showAction());
  byId('retry-enabled').addEventListener('change', (event) => (byId('retry-fields').disabled = !event.target.checked));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    startForm.submit();
  });
  // Parameters may hold several lines, yet Enter should start as it does in every other field.
  form.addEventListener('keydown', (event) => {
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing || event.target.tagName !== 'TEXTAREA') return;
    event.preventDefault();
    form.requestSubmit();
  });
  for (const button of form.querySelectorAll('[data-close]')) {
    button.addEventListener('click', () => byId('start-dialog').close());
  }
}

function listenToPage() {
  byId('task-tools').addEventListener('submit', (event) => event.preventDefault());
  byId('task-filter').addEventListener('input', (event) => table.setFilter(event.target.value));
  byId('reconnect').addEventListener('click', () => wire.retryNow());
  byId('detail-close').addEventListener('click', () => goTo('#/tasks'));
  for (const button of byId('detail').querySelectorAll('[data-do]')) {
    button.addEventListener('click', () => act(button.dataset.do, route.taskId));
  }
  byId('token-form').addEventListener('submit', (event) => {
    event.preventDefault();
    const token = byId('token-input').value;
    byId('token-input').value = '';
    wire.useToken(token);
  });
  addEventListener('hashchange', readRoute);
  addEventListener('popstate', readRoute);
  document.addEventListener('visibilitychange', () => document.hidden || refreshAll());
  document.addEventListener('keydown', shortcut);
}

/** `/` goes to the filter; Escape leaves the open task. */
function shortcut(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey) return;
  if (document.querySelector('dialog[open]') || event.target.closest('input, textarea, select')) return;
  if (event.key === '/' && route.view === 'tasks') {
    event.preventDefault();
    byId('task-filter').focus();
  } else if (event.key === 'Escape' && route.view === 'tasks' && route.taskId !== null) {
    goTo('#/tasks');
    byId('tasks-grid').focus();
  }
}

adoptTokenFromAddress();
buildStateFilter();
listenToPage();
listenToOutputTools();
listenToStartForm();
readRoute();
wire.connect();
setInterval(tick, 500);
