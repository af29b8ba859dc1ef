// What every part of the page needs and no part owns: times and durations as the daemon writes them, words for numbers,
// and the few ways in which the document is changed.

// === Times ===

/** The daemon's clock minus this one's, in milliseconds; zero while they agree within two seconds. */
let clockSkew = 0;

export function noteServerTime(ts) {
  const skew = Date.parse(ts) - Date.now();
  if (Number.isFinite(skew)) clockSkew = Math.abs(skew) > 2_000 ? skew : 0;
}

export const serverNow = () => Date.now() + clockSkew;

/** Milliseconds of an RFC 3339 time, or null for none; the year 1 is how Go writes an unset time. */
export function instant(text) {
  if (!text || text.startsWith('0001-01-01')) return null;
  const ms = Date.parse(text);
  return Number.isNaN(ms) ? null : ms;
}

const UNIT_MS = { ns: 1e-6, us: 1e-3, µs: 1e-3, μs: 1e-3, ms: 1, s: 1e3, m: 6e4, h: 36e5 };

/** The durations that the daemon reads. It hangs up on any other text, so forms check with this first. */
export const DURATION = /^[+-]?(0|((\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h))+)$/;

/** Milliseconds of a duration as the daemon writes it (`1m30.5s`, `200ms`). */
export function durationMs(text) {
  let ms = 0;
  for (const [, number, unit] of (text ?? '').matchAll(/([\d.]+)(ns|us|µs|μs|ms|s|m|h)/g)) ms += number * UNIT_MS[unit];
  return ms;
}

/** A span as people say it: `850 ms`, `12 s`, `5 min`, `3 h`, `12 d`. */
export function span(ms) {
  if (ms < 1_000) return `${Math.max(0, Math.round(ms))} ms`;
  const seconds = ms / 1_000;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3_600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 48 * 3_600) return `${Math.floor(seconds / 3_600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}

export function ago(ms) {
  const passed = serverNow() - ms;
  return passed < 1_000 ? 'just now' : `${span(passed)} ago`;
}

// === Words for numbers ===

const integers = new Intl.NumberFormat();

export const figure = (value) => integers.format(value);

/** `1 task`, `12 tasks`. */
export const countOf = (count, noun) => `${figure(count)} ${noun}${count === 1 ? '' : 's'}`;

/** An exit code in words: -1 is how the daemon writes a death by any signal. */
export const exitText = (code) => (code === -1 ? 'killed by a signal' : `exited ${code}`);

// === Changing the document ===

export const byId = (id) => document.getElementById(id);

/** Writing an unchanged text would still cost a layout. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function setData(element, key, value) {
  if (element.dataset[key] !== String(value)) element.dataset[key] = value;
}

export function setLabel(element, label) {
  if (element.getAttribute('aria-label') !== label) element.setAttribute('aria-label', label);
}

export function showTime(element, ms) {
  setText(element, ms === null ? '–' : ago(ms));
  const iso = ms === null ? '' : new Date(ms).toISOString();
  if (element.dateTime === iso) return;
  element.dateTime = iso;
  element.title = ms === null ? '' : new Date(ms).toLocaleString();
}

/** A new element with `data-…` attributes and children. */
export function make(tag, data, ...children) {
  const element = document.createElement(tag);
  Object.assign(element.dataset, data);
  element.append(...children);
  return element;
}
