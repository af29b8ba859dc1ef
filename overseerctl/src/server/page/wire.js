// The connection to the daemon: one WebSocket, its token, its reconnection, and requests that find their reply.
// What the messages mean is not known here; that is for tasks.js, output.js and app.js.
//
//   connecting ──open──▶ live ──close──▶ lost ──back-off──▶ connecting
//        └── never opened, HTTP says 401 or 403 ──▶ refused ──new token──▶ connecting

const BACKOFF_FIRST_MS = 500;
const BACKOFF_LIMIT_MS = 15_000;
/** A connection that lived this long has proved itself: the next loss starts the back-off from its beginning. */
const STABLE_MS = 5_000;
/** A browser cannot ping, so a request followed by silence is how a dead peer shows. */
const SILENCE_MS = 20_000;
const TOKEN_KEY = 'overseerctl.token';
const session = storage('sessionStorage');

/**
 * Requests that the protocol may leave without a reply. The daemon handles the messages of a connection one after
 * another, so the reply to any later request proves that these are done (a fence).
 */
const MAY_STAY_SILENT = new Set(['stop', 'replay']);

/** An `error` message of the daemon, or the loss of the connection before the reply. */
export class RequestError extends Error {
  constructor(message, reply = null) {
    super(message);
    this.reply = reply;
  }

  get lost() {
    return this.reply === null;
  }
}

export class Wire {
  /**
   * @param {object} on callbacks: `state(name, detail, retryAt)`, `open()`, `message(msg)`.
   *   `message` sees every message, replies included, before the request's promise settles.
   */
  constructor(on) {
    this.on = on;
    this.socket = null;
    this.state = 'connecting';
    this.pending = new Map();
    this.heardAt = 0;
    this.delay = BACKOFF_FIRST_MS;
    this.retryTimer = 0;
    // Every subscriber of a task sees the starter's id, so ids have to differ between all clients of the daemon.
    this.idPrefix = `page-${randomHex(6)}-`;
    this.lastId = 0;
    setInterval(() => this.#dropIfSilent(), 5_000);
    addEventListener('online', () => this.retryNow());
    addEventListener('pagehide', () => this.socket?.close());
    addEventListener('pageshow', (event) => event.persisted && this.retryNow());
    document.addEventListener('visibilitychange', () => document.hidden || this.retryNow());
  }

  connect() {
    clearTimeout(this.retryTimer);
    this.#enter('connecting');
    const socket = new WebSocket(endpoint('ws'));
    this.socket = socket;
    let openedAt = 0;
    socket.onopen = () => {
      openedAt = performance.now();
      this.#enter('live');
      this.on.open();
    };
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onclose = (event) => {
      if (this.socket !== socket) return;
      this.socket = null;
      this.#abandonPending();
      if (openedAt && performance.now() - openedAt > STABLE_MS) this.delay = BACKOFF_FIRST_MS;
      this.#afterClose(openedAt > 0, event.reason);
    };
  }

  /** Reconnects at once if the connection is lost; does nothing otherwise. */
  retryNow() {
    if (this.state === 'lost') this.connect();
  }

  useToken(token) {
    saveToken(token);
    this.delay = BACKOFF_FIRST_MS;
    this.connect();
  }

  /**
   * Sends a request and resolves with its reply, or with null for a request that the daemon left without one.
   * Rejects with a RequestError.
   */
  request(type, fields = {}) {
    if (this.socket?.readyState !== WebSocket.OPEN) {
      return Promise.reject(new RequestError('not connected to the daemon'));
    }
    const id = this.idPrefix + ++this.lastId;
    this.socket.send(JSON.stringify({ type, id, ...fields }));
    return new Promise((resolve, reject) => {
      this.pending.set(id, { type, resolve, reject, sentAt: performance.now() });
    });
  }

  /** True for an id that this page made, also when its request has been answered long ago. */
  isOwn(id) {
    return typeof id === 'string' && id.startsWith(this.idPrefix);
  }

  #receive(data) {
    this.heardAt = performance.now();
    let msg;
    try {
      msg = JSON.parse(data);
    } catch {
      console.warn('the daemon sent a frame that is not JSON', data);
      return;
    }
    this.on.message(msg);
    if (msg.id && this.pending.has(msg.id)) this.#settle(msg);
  }

  #settle(reply) {
    for (const [id, request] of this.pending) {
      if (id === reply.id) break;
      if (!MAY_STAY_SILENT.has(request.type)) continue;
      this.pending.delete(id);
      request.resolve(null);
    }
    const request = this.pending.get(reply.id);
    this.pending.delete(reply.id);
    if (reply.type === 'error') request.reject(new RequestError(reply.message, reply));
    else request.resolve(reply);
  }

  async #afterClose(wasOpen, reason) {
    this.#enter('lost', reason);
    if (!wasOpen) {
      // A browser does not tell why an upgrade failed; a plain GET of the same address does.
      const status = await statusOf(endpoint('ws', 'http'));
      if (this.state !== 'lost') return;
      if (status === 401 || status === 403) {
        this.#enter('refused', status);
        return;
      }
    }
    const wait = this.delay * (0.8 + 0.4 * Math.random());
    this.delay = Math.min(this.delay * 2, BACKOFF_LIMIT_MS);
    this.#enter('lost', reason, performance.now() + wait);
    this.retryTimer = setTimeout(() => this.retryNow(), wait);
  }

  #abandonPending() {
    const orphans = [...this.pending.values()];
    this.pending.clear();
    const loss = new RequestError('the connection was lost before the daemon answered');
    for (const request of orphans) request.reject(loss);
  }

  #dropIfSilent() {
    const [oldest] = this.pending.values();
    // A reply may stand behind a long flood of output: any message is a sign of life.
    const quietSince = Math.max(oldest?.sentAt ?? Infinity, this.heardAt);
    if (performance.now() - quietSince > SILENCE_MS) this.#hangUp('the daemon stopped answering');
  }

  /** Leaves a socket whose closing handshake may never finish. */
  #hangUp(reason) {
    const socket = this.socket;
    if (!socket) return;
    this.socket = null;
    socket.onmessage = null;
    socket.close();
    this.#abandonPending();
    this.#afterClose(true, reason);
  }

  #enter(state, detail, retryAt = 0) {
    this.state = state;
    this.on.state(state, detail, retryAt);
  }
}

/** Moves `?token=…` from the address to the session, so that it is neither bookmarked nor shown. */
export function adoptTokenFromAddress() {
  const url = new URL(location.href);
  const token = url.searchParams.get('token');
  if (token === null) return;
  saveToken(token);
  url.searchParams.delete('token');
  history.replaceState(history.state, '', url);
}

/** A storage of the browser by its name, or, where the browser forbids it, one that lasts as long as the page. */
export function storage(name) {
  try {
    return window[name];
  } catch {
    const kept = new Map();
    return {
      getItem: (key) => kept.get(key) ?? null,
      setItem: (key, value) => kept.set(key, String(value)),
      removeItem: (key) => kept.delete(key),
    };
  }
}

/** A random (version 4) UUID, also where `crypto.randomUUID` is missing: on plain HTTP beyond localhost. */
export function uuid() {
  const hex = randomHex(16).split('');
  hex[12] = '4';
  hex[16] = '89ab'[parseInt(hex[16], 16) & 3];
  return hex.join('').replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, '$1-$2-$3-$4-$5');
}

export function hasToken() {
  return session.getItem(TOKEN_KEY) !== null;
}

function saveToken(token) {
  if (token) session.setItem(TOKEN_KEY, token);
  else session.removeItem(TOKEN_KEY);
}

/** The address of `path` next to this page, with the token: a proxy may serve the page below a prefix. */
function endpoint(path, scheme = 'ws') {
  const url = new URL(path, location.href);
  url.protocol = scheme + (location.protocol === 'https:' ? 's:' : ':');
  url.hash = '';
  url.search = '';
  const token = session.getItem(TOKEN_KEY);
  if (token !== null) url.searchParams.set('token', token);
  return url;
}

async function statusOf(url) {
  try {
    return (await fetch(url, { cache: 'no-store' })).status;
  } catch {
    return 0;
  }
}

function randomHex(bytes) {
  return [...crypto.getRandomValues(new Uint8Array(bytes))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}
