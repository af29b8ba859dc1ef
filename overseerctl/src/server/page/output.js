// The output of the selected task: the daemon's replay and the live lines merged without gap or duplicate, and shown
// fast enough for a task that never stops talking. Which task is selected is decided in app.js.
//
// A replayed message looks like a live one and a replay has no end mark, so `attach` sends subscribe, replay and one
// more request, the fence. Lines are put in order by `seq`, which counts the lines of a task over both streams and over
// restarts, so a line that comes twice or late does no harm. The other messages carry no `seq`: those that arrive
// before the fence's reply wait for it, and then find their place by the lines of their process.

import { byId, countOf, durationMs, exitText, figure, setText, span } from './basics.js';

/** Lines that are shown, and lines that may wait to be shown. */
const LINE_CAP = 5_000;
/** Characters held in all; a single line may have ten million. */
const CHAR_CAP = 32_000_000;
/** Characters shown of one line; Copy has the rest. */
const LINE_CHARS = 8_192;
/** Lines may wait beyond the cap by this factor before the oldest are dropped, so that dropping is rare and in bulk. */
const SLACK = 1.2;

/** When more lines than this come at once, only the last of them get an element; the rest follow in a quiet moment. */
const BURST = 250;
const QUIET_MS = 250;
/** Time between two showings: short enough to look live, and never shorter than what the last showing took. */
const PACE_MS = 50;

/** Lines stand at their whole `seq`; what has no seq goes between, and a silent crash loop has very many marks. */
const MARK_STEP = 1e-6;

export class OutputView {
  constructor(wire) {
    this.wire = wire;
    this.box = byId('output');
    this.taskId = null;
    this.generation = 0;
    this.early = new Map();
    this.following = true;
    this.needle = '';
    this.nextShowing = 0;
    this.highlights = 'highlights' in CSS ? new Highlight() : null;
    if (this.highlights) CSS.highlights.set('found', this.highlights);
    this.#empty();
    this.#listen();
  }

  // === Choosing a task ===

  /** Keeps the messages of a task that is about to be started, so that its first lines are there when it is shown. */
  expect(taskId) {
    this.early.set(taskId, []);
  }

  forget(taskId) {
    this.early.delete(taskId);
  }

  /** Shows `taskId`. For the task already shown (after a lost connection) the lines stay and the replay fills in. */
  async attach(taskId) {
    const generation = ++this.generation;
    if (taskId !== this.taskId) {
      this.#empty();
      this.taskId = taskId;
      this.follow(true);
    }
    this.unplaced = [];
    const early = this.early.get(taskId) ?? [];
    this.early.delete(taskId);
    for (const msg of early) this.take(msg);
    this.vacancy = 'Asking for the output…';
    this.#schedule();
    this.wire.request('subscribe', { task_id: taskId }).catch(() => {});
    let replayError = null;
    this.wire.request('replay', { task_id: taskId }).catch((error) => (replayError = error));
    const fence = await this.wire.request('metrics', { task_id: taskId }).catch(() => null);
    if (generation !== this.generation) return null;
    this.vacancy = replayError === null ? 'No output yet.' : 'Nothing has run yet.';
    this.#placeMarks();
    this.#schedule();
    return fence;
  }

  /** Stops taking messages while the lines stay on show: the connection is gone, or so is the task. */
  suspend() {
    this.generation += 1;
    this.unplaced = null;
  }

  detach() {
    this.suspend();
    this.taskId = null;
    this.#empty();
  }

  /** Takes a message of any task. */
  take(msg) {
    const early = this.early.size > 0 ? this.early.get(msg.task_id) : undefined;
    if (early) early.push(msg);
    if (msg.task_id !== this.taskId) return;
    if (msg.type === 'output') this.#line(msg);
    else if (this.unplaced) this.unplaced.push(msg);
    else this.#mark(msg, this.#nextOrder());
  }

  // === Order ===

  #empty() {
    this.#emptyLines();
    /** Nothing below this order is taken any more: it was cleared, or dropped as too old. */
    this.floor = 0;
    this.marks = new Set();
    /** Messages that wait for the fence, while one is under way. */
    this.unplaced = null;
    this.vacancy = '';
  }

  #emptyLines() {
    this.lines = [];
    /** The lines from index `first` up to `rendered` have an element in the document. */
    this.first = 0;
    this.rendered = 0;
    this.late = [];
    this.chars = 0;
    this.dropped = 0;
    this.current = null;
    this.highlights?.clear();
    this.box.replaceChildren();
    this.#schedule();
  }

  #line(msg) {
    // A replayed line without seq was withheld from live subscribers by the action's output filter.
    if (!msg.seq && this.unplaced) return;
    this.#insert(lineOf(msg, msg.seq || this.#nextOrder()));
  }

  #placeMarks() {
    const marks = this.unplaced;
    this.unplaced = null;
    const reach = new Map();
    for (const { pid, seq } of this.lines) if (seq) reach.set(pid, { first: reach.get(pid)?.first ?? seq, last: seq });
    for (const msg of marks) {
      const { first, last } = reach.get(msg.pid) ?? {};
      const place = msg.type === 'started' ? first && first - 0.5 : last && last + MARK_PLACE[msg.type];
      this.#mark(msg, place ?? this.#nextOrder());
    }
  }

  #mark(msg, order) {
    const text = MARK_TEXT[msg.type]?.(msg);
    const key = `${msg.type} ${msg.pid} ${msg.ts}`;
    if (text === undefined || this.marks.has(key)) return;
    if (this.marks.size > LINE_CAP) this.marks.clear();
    this.marks.add(key);
    this.#insert({ order, kind: 'mark', pid: msg.pid, data: text, ts: msg.ts, seq: 0, element: null });
  }

  /** A place behind everything so far, and before the next line. */
  #nextOrder() {
    return (this.lines.at(-1)?.order ?? this.floor) + MARK_STEP;
  }

  #insert(line) {
    if (line.order < this.floor) return;
    const lines = this.lines;
    let at = lines.length;
    while (at > 0 && lines[at - 1].order > line.order) at -= 1;
    if (at > 0 && lines[at - 1].order === line.order && lines[at - 1].pid === line.pid) return;
    if (at === lines.length) lines.push(line);
    else lines.splice(at, 0, line);
    if (at < this.rendered) {
      this.rendered += 1;
      if (at < this.first) this.first += 1;
      else this.late.push(line);
    }
    this.chars += line.data.length;
    if (lines.length - this.rendered > LINE_CAP * SLACK || this.chars > CHAR_CAP * SLACK) this.#dropWaiting();
    this.#schedule();
  }

  /** Drops the oldest lines that wait to be shown: in a hidden tab or a paused view nothing else bounds them. */
  #dropWaiting() {
    let count = Math.max(0, this.lines.length - this.rendered - LINE_CAP);
    let chars = this.chars;
    const last = this.lines.length - 1;
    for (let at = this.rendered; at < this.rendered + count; at++) chars -= this.lines[at].data.length;
    while (chars > CHAR_CAP && this.rendered + count < last) chars -= this.lines[this.rendered + count++].data.length;
    this.lines.splice(this.rendered, count);
    this.chars = chars;
    this.dropped += count;
  }

  // === Showing ===

  #schedule() {
    if (this.scheduled) return;
    this.scheduled = true;
    const wait = Math.max(0, this.nextShowing - performance.now());
    setTimeout(() => requestAnimationFrame(() => this.#showInTime()), wait);
  }

  #showInTime() {
    this.scheduled = false;
    const began = performance.now();
    this.#show();
    // A task queued in a frame runs after its layout and paint. Without a pause as long as these took, a flood of
    // output would leave no time for its own messages.
    setTimeout(() => (this.nextShowing = performance.now() + Math.max(PACE_MS, performance.now() - began)));
  }

  #show() {
    if (this.following) this.#render();
    if (this.first > 0) this.#awaitQuiet();
    const waiting = this.lines.length - this.rendered;
    byId('output-resume').hidden = this.following;
    setText(
      byId('output-resume'),
      waiting > 0 ? `${waiting >= LINE_CAP ? 'Over ' : ''}${countOf(waiting, 'new line')} ↓` : 'Follow ↓',
    );
    byId('output-empty').hidden = this.lines.length > 0 || this.vacancy === '';
    setText(byId('output-empty'), this.vacancy);
    byId('output-notice').hidden = this.dropped === 0;
    setText(
      byId('output-notice'),
      `At most ${figure(LINE_CAP)} lines are kept here; ${countOf(this.dropped, 'older line')} dropped.`,
    );
    this.#countHits();
  }

  #render() {
    this.#dropShown();
    for (const line of this.late) this.#renderLate(line);
    this.late = [];
    if (this.rendered === this.lines.length) return;
    if (this.lines.length - this.rendered > BURST) this.#skipTo(this.lines.length - BURST);
    this.box.append(this.#elementsOf(this.rendered, this.lines.length));
    this.rendered = this.lines.length;
    this.box.scrollTop = this.box.scrollHeight;
  }

  /** Starts the document anew at `index`. What is left out above is filled in when the burst is over, or looked for. */
  #skipTo(index) {
    for (const line of this.lines.slice(this.first, this.rendered)) line.element = null;
    this.highlights?.clear();
    this.box.replaceChildren();
    this.first = this.rendered = index;
    this.burstAt = performance.now();
  }

  #awaitQuiet() {
    if (performance.now() - this.burstAt > QUIET_MS) this.#fillAbove();
    else this.#schedule();
  }

  #fillAbove() {
    if (this.first === 0) return;
    const belowTop = this.box.scrollHeight - this.box.scrollTop;
    const end = this.first;
    this.first = 0;
    this.box.prepend(this.#elementsOf(0, end));
    this.box.scrollTop = this.box.scrollHeight - belowTop;
    this.#countHits();
  }

  #elementsOf(from, to) {
    const elements = document.createDocumentFragment();
    let previous = this.#lineBefore(from);
    for (let at = from; at < to; at++) {
      const line = this.lines[at];
      elements.append(this.#elementOf(line, previous));
      if (line.seq) previous = line;
    }
    return elements;
  }

  #dropShown() {
    let count = Math.max(0, this.lines.length - LINE_CAP);
    for (let at = 0; at < count; at++) this.chars -= this.lines[at].data.length;
    while (this.chars > CHAR_CAP && count < this.lines.length - 1) this.chars -= this.lines[count++].data.length;
    if (count === 0) return;
    for (const line of this.lines.splice(0, count)) {
      line.element?.remove();
      line.element = null;
      this.#unhighlight(line);
    }
    this.dropped += count;
    this.floor = this.lines[0].order;
    this.first = Math.max(0, this.first - count);
    this.rendered = Math.max(0, this.rendered - count);
    this.late = this.late.filter((line) => line.order >= this.floor);
  }

  #renderLate(line) {
    const at = this.lines.indexOf(line);
    if (at === -1) return;
    const next = this.lines.slice(at + 1, this.rendered).find((other) => other.element);
    this.box.insertBefore(this.#elementOf(line, this.#lineBefore(at)), next?.element ?? null);
    const nextLine = this.lines.slice(at + 1, this.rendered).find((other) => other.seq && other.element);
    if (nextLine && line.seq) showGap(nextLine.element, line.seq, nextLine.seq);
  }

  #lineBefore(at) {
    while (--at >= 0) if (this.lines[at].seq) return this.lines[at];
    return null;
  }

  #elementOf(line, previous) {
    const element = document.createElement('div');
    element.className = line.kind === 'stderr' ? 'line err' : line.kind === 'mark' ? 'line mark' : 'line';
    const rest = line.data.length - LINE_CHARS;
    const text = rest > 0 ? line.data.slice(0, LINE_CHARS) : line.data;
    if (text.includes('\x1b')) element.append(...coloured(text));
    else element.textContent = text;
    if (rest > 0) element.append(aside(` … ${figure(rest)} more characters, which Copy has`));
    if (line.truncated) element.append(aside(' … cut off by the daemon'));
    if (line.seq) {
      element.dataset.seq = line.seq;
      if (previous) showGap(element, previous.seq, line.seq);
      else if (this.floor === 0 && line.seq > 1) showLostStart(element, line.seq - 1);
    }
    if (this.times) showClock(element, line);
    line.element = element;
    if (this.needle) this.#test(line);
    return element;
  }

  // === Follow, find, copy, clear ===

  follow(on) {
    this.following = on;
    byId('output-follow').setAttribute('aria-pressed', on);
    if (on) this.#toEnd();
    else this.#fillAbove();
    this.#schedule();
  }

  #toEnd() {
    this.#render();
    this.box.scrollTop = this.box.scrollHeight;
  }

  find(text) {
    this.needle = text.toLowerCase();
    this.highlights?.clear();
    this.#setCurrent(null);
    for (const line of this.lines) if (line.element) this.#test(line);
    this.#countHits();
  }

  #test(line) {
    line.hit = this.needle !== '' && line.data.toLowerCase().includes(this.needle);
    line.element.classList.toggle('hit', line.hit);
    line.ranges = [];
    if (line.hit && this.highlights) this.#highlight(line, line.element.firstChild);
  }

  #highlight(line, node) {
    if (node?.nodeType !== Node.TEXT_NODE) return;
    const text = node.data.toLowerCase();
    // Lower-casing may change the length of a text, and with it every offset.
    if (text.length !== node.data.length) return;
    for (let at = text.indexOf(this.needle); at !== -1; at = text.indexOf(this.needle, at + this.needle.length)) {
      const end = at + this.needle.length;
      const range = new StaticRange({ startContainer: node, startOffset: at, endContainer: node, endOffset: end });
      this.highlights.add(range);
      line.ranges.push(range);
    }
  }

  #unhighlight(line) {
    for (const range of line.ranges ?? []) this.highlights.delete(range);
  }

  #hits() {
    return this.needle === '' ? [] : this.lines.filter((line) => line.hit && line.element);
  }

  #countHits() {
    const hits = this.#hits();
    const at = hits.indexOf(this.current) + 1;
    setText(byId('output-hits'), this.needle === '' ? '' : at > 0 ? `${at} of ${hits.length}` : hitsText(hits.length));
    byId('output-prev').disabled = byId('output-next').disabled = hits.length === 0;
  }

  /** Goes to the next match (`step` 1) or the previous one (-1), round the end; a view that follows is paused. */
  jump(step) {
    const hits = this.#hits();
    if (hits.length === 0) return;
    this.follow(false);
    const at = hits.indexOf(this.current);
    const from = at === -1 ? (step > 0 ? -1 : hits.length) : at;
    this.#setCurrent(hits[(from + step + hits.length) % hits.length]);
    this.current.element.scrollIntoView({ block: 'center' });
    this.#countHits();
  }

  #setCurrent(line) {
    this.current?.element?.classList.remove('current');
    this.current = line;
    line?.element.classList.add('current');
  }

  clear() {
    this.floor = Math.floor(this.lines.at(-1)?.order ?? this.floor) + 0.5;
    this.#emptyLines();
    this.vacancy = 'Cleared here. New lines will show.';
    this.follow(true);
  }

  async copy() {
    const text = this.lines.filter((line) => line.kind !== 'mark').map((line) => `${line.data}\n`);
    await copyText(text.join(''));
    return text.length;
  }

  showTimes(on) {
    this.times = on;
    this.box.classList.toggle('times', on);
    if (on) for (const line of this.lines) if (line.element) showClock(line.element, line);
    if (this.following) this.#toEnd();
  }

  wrap(on) {
    this.box.classList.toggle('nowrap', !on);
    if (this.following) this.#toEnd();
  }

  #listen() {
    let lastTop = 0;
    this.box.addEventListener(
      'scroll',
      () => {
        const { scrollTop, scrollHeight, clientHeight } = this.box;
        const below = scrollHeight - clientHeight - scrollTop;
        const upwards = scrollTop < lastTop;
        lastTop = scrollTop;
        // Scrolling up is reading: hold still. Coming back to the end is the wish to follow again.
        if (this.following && upwards && below > 24) this.follow(false);
        else if (!this.following && !upwards && below <= 2) this.follow(true);
      },
      { passive: true },
    );
    new ResizeObserver(() => this.following && this.#toEnd()).observe(this.box);
  }
}

const hitsText = (count) => (count === 0 ? 'none' : countOf(count, 'line'));

// === Lines ===

function lineOf(msg, order) {
  const { pid, stream, data, ts, seq = 0, truncated = false } = msg;
  return { order, kind: stream, pid, data, ts, seq, truncated, element: null, hit: false };
}

/** Where a mark stands behind the last line of its process when both came before the fence. */
const MARK_PLACE = { exited: 0.25, errored: 0.5, restarting: 0.5 };

const MARK_TEXT = {
  started: (msg) => (msg.restart_of ? `restarted, pid ${msg.pid}` : `started, pid ${msg.pid}`),
  exited: (msg) => `${exitText(msg.exit_code)}${msg.intentional ? ', as asked' : ''}, pid ${msg.pid}`,
  restarting: (msg) => `restart ${msg.attempt} in ${span(durationMs(msg.restart_delay))}`,
  errored: (msg) => `errored after ${countOf(msg.exit_count, 'exit')}: no more restarts until a reset`,
};

/** The daemon keeps the last hundred or so events of the present run only. */
function showLostStart(element, missing) {
  element.dataset.gap = `not shown: ${countOf(missing, 'earlier line')}, no longer kept by the daemon`;
}

function showGap(element, before, seq) {
  const missing = seq - before - 1;
  if (missing > 0) element.dataset.gap = `${countOf(missing, 'line')} missing here`;
  else delete element.dataset.gap;
}

function showClock(element, line) {
  const at = new Date(line.ts);
  const clock = [at.getHours(), at.getMinutes(), at.getSeconds()]
    .map((part) => String(part).padStart(2, '0'))
    .join(':');
  element.dataset.time = `${clock}.${String(at.getMilliseconds()).padStart(3, '0')}`;
}

function aside(text) {
  const span = document.createElement('span');
  span.className = 'aside';
  span.textContent = text;
  return span;
}

// === Terminal colours ===

/** Control sequences (CSI, OSC and two-character escapes); only CSI … m, the colours, has a meaning here. */
const ESCAPE = /\x1b(?:\[([0-9;:]*)[ -/]*([@-~])|\][^\x07\x1b]*(?:\x07|\x1b\\)?|.?)/g;

/** The text as nodes, with the sixteen terminal colours and the common weights as classes; other escapes vanish. */
function coloured(text) {
  const nodes = [];
  const style = new Set();
  let at = 0;
  const put = (end) => {
    if (end === at) return;
    const span = document.createElement('span');
    span.className = [...style].join(' ');
    span.textContent = text.slice(at, end);
    nodes.push(span);
  };
  for (const match of text.matchAll(ESCAPE)) {
    put(match.index);
    at = match.index + match[0].length;
    if (match[2] === 'm') applySgr(style, match[1]);
  }
  put(text.length);
  return nodes;
}

const SGR_WEIGHTS = { 1: 'bold', 2: 'faint', 3: 'italic', 4: 'underline', 7: 'inverse' };

function applySgr(style, parameters) {
  const codes = parameters.split(/[;:]/).map(Number);
  for (let i = 0; i < codes.length; i++) {
    const code = codes[i];
    if (code === 0) style.clear();
    else if (code in SGR_WEIGHTS) style.add(SGR_WEIGHTS[code]);
    else if (code === 22) ['bold', 'faint'].forEach((name) => style.delete(name));
    else if (code === 23 || code === 24 || code === 27) style.delete(SGR_WEIGHTS[code - 20]);
    else if (code === 38 || code === 48) i += codes[i + 1] === 5 ? 2 : 4;
    else if ((code >= 30 && code <= 39) || (code >= 90 && code <= 97)) recolour(style, 'fg', code, 30);
    else if ((code >= 40 && code <= 49) || (code >= 100 && code <= 107)) recolour(style, 'bg', code, 40);
  }
}

function recolour(style, ground, code, base) {
  for (const name of style) if (name.startsWith(ground)) style.delete(name);
  if (code === base + 9) return;
  style.add(`${ground}-${code >= 90 ? code - base - 52 : code - base}`);
}

// === Clipboard ===

async function copyText(text) {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // Plain HTTP beyond localhost has no clipboard API, only the old command.
  const area = document.createElement('textarea');
  area.value = text;
  area.className = 'hidden-text';
  document.body.append(area);
  area.select();
  const copied = document.execCommand('copy');
  area.remove();
  if (!copied) throw new Error('the browser refused the clipboard');
}
