// The pools: one card for the whole daemon and one for each action, with its gauges, queue, counters and limits.
// What is running or queued inside a pool is decided by the daemon; here it is shown and asked for.

import { ago, byId, countOf, figure, instant, make, setText } from './basics.js';

const QUEUE_SHOWN = 20;

const METRIC_LABELS = {
  tasks_started: 'started',
  tasks_completed: 'completed',
  tasks_errored: 'errored',
  tasks_restarted: 'restarted',
  total_output_lines: 'lines',
  enqueued: 'queued',
  dequeued: 'left the queue',
  displaced: 'displaced',
  expired: 'expired',
};

/** What is counted for each action; the rest is counted for the whole daemon only. */
const ACTION_METRICS = ['tasks_started', 'tasks_completed', 'tasks_errored', 'tasks_restarted', 'total_output_lines'];

export class Pools {
  /** @param {object} on callbacks: `open(taskId)`, `confirm(title, text, yes)`, `toast(text, kind)`, `describe()`. */
  constructor(wire, on) {
    this.wire = wire;
    this.on = on;
    this.actions = new Map();
    /** By action name, with '' for the global pool: the card and the newest `pool` of the daemon. */
    this.cards = new Map();
  }

  setActions(actions) {
    this.actions = new Map(actions.map((action) => [action.name, action]));
    const names = ['', ...this.actions.keys()];
    if (names.join('\n') === [...this.cards.keys()].join('\n')) return;
    this.cards = new Map(names.map((name) => [name, { card: this.#newCard(name), pool: null }]));
    byId('pools').replaceChildren(...[...this.cards.values()].map((entry) => entry.card));
  }

  /** Asks for the state of every pool and the counters of every action. */
  ask() {
    for (const name of this.cards.keys()) {
      const about = scope(name);
      this.wire
        .request('pool_info', about)
        .then((reply) => this.take(reply))
        .catch(ignore);
      if (name === '') continue;
      const numbers = this.cards.get(name).card.querySelector('.numbers');
      this.wire
        .request('metrics', about)
        .then((reply) => showMetrics(numbers, reply.action ?? {}, ACTION_METRICS))
        .catch(ignore);
    }
  }

  /** Takes a `pool_info` or a `pool_updated` message. */
  take(msg) {
    const name = msg.action ?? '';
    const entry = this.cards.get(name);
    if (!entry) return;
    entry.pool = msg.pool;
    const { limit, running, queue_depth: depth, queue_items: items } = msg.pool;
    const size = this.#queueSize(name);
    showGauge(
      entry.card,
      'running',
      running,
      limit,
      limit > 0 ? `${figure(running)} of ${figure(limit)}` : `${figure(running)}, no limit`,
    );
    showGauge(entry.card, 'queue', depth, size, this.#queueText(name, depth, size));
    showQueue(entry.card.querySelector('.queue-items'), items ?? [], depth);
    entry.card.querySelector('.purge').hidden = depth === 0;
  }

  /** The queue's size, or 0 for none or unknown: a daemon may tell it for the actions only, not for the global pool. */
  #queueSize(name) {
    return this.cards.get(name).pool?.queue_size ?? this.actions.get(name)?.task_pool?.queue?.size ?? 0;
  }

  #queueText(name, depth, size) {
    if (size > 0) return `${figure(depth)} of ${figure(size)}`;
    const off = depth === 0 && this.actions.get(name)?.task_pool?.queue?.enabled === false;
    return off ? 'off' : `${figure(depth)} waiting`;
  }

  #newCard(name) {
    const card = byId('pool-template').content.firstElementChild.cloneNode(true);
    card.dataset.pool = name;
    setText(card.querySelector('h3'), name || 'All actions together');
    card.querySelector('h3').classList.toggle('mono', name !== '');
    setText(card.querySelector('.kind'), this.actions.get(name)?.type ?? '');
    card.querySelector('.pool-limits').addEventListener('toggle', () => this.#fillForm(name));
    card.querySelector('.pool-form').addEventListener('submit', (event) => {
      event.preventDefault();
      this.#setLimits(name);
    });
    card.querySelector('.purge').addEventListener('click', () => this.#purge(name));
    card.querySelector('.queue-items').addEventListener('click', (event) => {
      const button = event.target.closest('button');
      if (button) this.on.open(button.dataset.taskId);
    });
    return card;
  }

  #fillForm(name) {
    const { card, pool } = this.cards.get(name);
    const form = card.querySelector('form');
    form.elements.limit.value = Math.max(0, pool?.limit ?? 0);
    form.elements.queue_size.value = this.#queueSize(name);
    form.elements.order.value = '';
    const unknown = name === '' && pool?.queue_size === undefined;
    const caution = unknown ? '; the daemon does not tell the present size of the global queue' : '';
    setText(form.querySelector('.hint'), `0 means no limit. Both values are replaced${caution}.`);
    form.querySelector('.banner').hidden = true;
  }

  async #setLimits(name) {
    const { card, pool } = this.cards.get(name);
    const form = card.querySelector('form');
    if (!form.reportValidity()) return;
    const limit = form.elements.limit.valueAsNumber;
    const order = form.elements.order.value;
    if (!(await this.#mayStop((pool?.running ?? 0) - limit, limit))) return;
    const message = { ...scope(name), limit, queue_size: form.elements.queue_size.valueAsNumber };
    if (order !== '') message.excess = { action: 'stop', order };
    try {
      this.take(await this.wire.request('set_pool', message));
      await this.on.describe();
      card.querySelector('details').open = false;
      this.ask();
    } catch (error) {
      const box = form.querySelector('.banner');
      setText(box, error.message);
      box.hidden = false;
    }
  }

  async #mayStop(excess, limit) {
    if (limit === 0 || excess <= 0) return true;
    const tasks = countOf(excess, 'running task');
    const text = `The new limit of ${figure(limit)} is below what runs now: the daemon stops ${tasks} at once.`;
    return this.on.confirm(`Stop ${tasks}?`, text, 'Set the limit');
  }

  async #purge(name) {
    const depth = this.cards.get(name).pool?.queue_depth ?? 0;
    const title = name === '' ? 'Purge all queues?' : `Purge the queue of ${name}?`;
    const text = `The daemon drops ${countOf(depth, 'waiting task')} without having run them.`;
    if (!(await this.on.confirm(title, text, 'Purge'))) return;
    try {
      const { count } = await this.wire.request('purge', scope(name));
      this.on.toast(`${countOf(count, 'task')} dropped from the queue.`);
      this.ask();
    } catch (error) {
      this.on.toast(`purge: ${error.message}`, 'error');
    }
  }
}

/** Fills a list of counters, by default with all that are counted for the whole daemon. */
export function showMetrics(list, metrics, names = Object.keys(METRIC_LABELS)) {
  for (const name of names) {
    let pair = list.querySelector(`[data-metric="${name}"]`);
    if (!pair) {
      pair = make('div', { metric: name }, make('dt', {}, METRIC_LABELS[name]), make('dd', {}));
      list.append(pair);
    }
    setText(pair.lastElementChild, figure(metrics[name] ?? 0));
  }
}

const scope = (name) => (name === '' ? {} : { action: name });

/** For questions that are repeated anyway: the connection state tells of their loss. */
const ignore = () => {};

function showGauge(card, name, value, limit, text) {
  const gauge = card.querySelector(`[data-gauge="${name}"]`);
  const track = gauge.querySelector('.track');
  setText(gauge.querySelector('.gauge-text'), text);
  gauge.dataset.level = levelOf(value, limit);
  track.hidden = limit <= 0;
  track.setAttribute('aria-label', gauge.querySelector('.gauge-name').textContent);
  track.setAttribute('aria-valuenow', value);
  track.setAttribute('aria-valuemax', Math.max(limit, value));
  track.setAttribute('aria-valuetext', text);
  track.firstElementChild.style.width = limit > 0 ? `${Math.min(100, (100 * value) / limit)}%` : '0';
}

function levelOf(value, limit) {
  if (limit <= 0) return 'open';
  return value > limit ? 'over' : value === limit ? 'full' : 'free';
}

function showQueue(list, items, depth) {
  list.hidden = depth === 0;
  // A rebuilt list would take the focus from its user.
  if (list.contains(document.activeElement)) return;
  const rows = items.slice(0, QUEUE_SHOWN).map(queueRow);
  if (items.length > QUEUE_SHOWN) rows.push(make('li', {}, `and ${figure(items.length - QUEUE_SHOWN)} more`));
  list.replaceChildren(...rows);
}

function queueRow(item) {
  const link = make('button', { taskId: item.task_id }, item.task_id);
  link.type = 'button';
  link.className = 'link mono';
  const at = instant(item.queued_at);
  const about = [item.forced ? 'forced' : '', at === null ? '' : ago(at)].filter(Boolean).join(', ');
  return make('li', {}, link, make('span', {}, about));
}
