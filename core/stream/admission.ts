/**
 * Who may be connected: few clients that have not logged in yet, and of these few from one address; a bounded number that
 * have. A client too many takes the place of another of the address that has most, so that a flood from one address only
 * drives out its own, and whoever comes from elsewhere is let through.
 */
import type { Channel } from './channel.ts';
import { pause } from './waits.ts';

const pollMs = 25;

export interface AdmissionLimits {
  /** Logged in. */
  maxConnections: number;
  /** Not logged in yet. */
  maxLogins: number;
  maxLoginsPerAddress: number;
}

export class Admission {
  readonly #limits: AdmissionLimits;
  /** Not logged in, by address. */
  readonly #logins = new Map<string, Set<Channel>>();
  /** Logged in, oldest first; true while it is being served a dump. */
  readonly #members = new Map<Channel, boolean>();

  constructor(limits: AdmissionLimits) {
    this.#limits = limits;
  }

  *channels(): Iterable<Channel> {
    for (const channels of this.#logins.values()) yield* channels;
    yield* this.#members.keys();
  }

  /** A client has connected; another one's connection may end for it. Returns how many did. */
  enter(channel: Channel): number {
    const address = networkOf(channel.address);
    const own = this.#logins.get(address) ?? new Set();
    this.#logins.set(address, own.add(channel));
    const { maxLogins, maxLoginsPerAddress } = this.#limits;
    let count = 0;
    for (const channels of this.#logins.values()) count += channels.size;
    if (own.size <= maxLoginsPerAddress && count <= maxLogins) return 0;
    const crowd = own.size > maxLoginsPerAddress ? own : this.#largest();
    const others = [...crowd].filter((other) => other !== channel);
    // Any of them: with a rule, a flood could be made to spare itself.
    const driven = others[Math.floor(Math.random() * others.length)] ?? channel;
    this.leave(driven);
    driven.destroy();
    return 1;
  }

  /** It has logged in. An older one that only sits there makes room; false when there is none. */
  join(channel: Channel): boolean {
    this.leave(channel);
    if (this.#members.size >= this.#limits.maxConnections) {
      const idle = [...this.#members].find(([, isServed]) => !isServed)?.[0];
      if (idle === undefined) return false;
      this.leave(idle);
      idle.destroy();
    }
    this.#members.set(channel, false);
    return true;
  }

  /** It is served a dump from now on. */
  serve(channel: Channel): void {
    if (this.#members.has(channel)) this.#members.set(channel, true);
  }

  leave(channel: Channel): void {
    this.#members.delete(channel);
    const address = networkOf(channel.address);
    const own = this.#logins.get(address);
    own?.delete(channel);
    if (own?.size === 0) this.#logins.delete(address);
  }

  #largest(): Set<Channel> {
    let largest = new Set<Channel>();
    for (const channels of this.#logins.values()) if (channels.size > largest.size) largest = channels;
    return largest;
  }
}

/** An IPv4 address, or the first 64 bits of an IPv6 one: whoever has one of those has them all. */
export function networkOf(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address);
  if (mapped?.[1]) return mapped[1];
  if (!address.includes(':')) return address;
  const [head = '', tail] = address.split('%', 1)[0]?.split('::') ?? [];
  const before = head === '' ? [] : head.split(':');
  const after = tail === undefined || tail === '' ? [] : tail.split(':');
  const zeros = tail === undefined ? 0 : 8 - before.length - after.length;
  return [...before, ...new Array<string>(zeros).fill('0'), ...after].slice(0, 4).join(':');
}

/** Large GTID sets: few at once, as each is kept for as long as it is served, and not one right after the other. */
export class LargeSets {
  readonly #maxAtOnce: number;
  readonly #everyMs: number;
  readonly #deadlineMs: number;
  #count = 0;
  #nextMs = 0;

  constructor(options: { maxAtOnce: number; everyMs: number; deadlineMs: number }) {
    this.#maxAtOnce = options.maxAtOnce;
    this.#everyMs = options.everyMs;
    this.#deadlineMs = options.deadlineMs;
  }

  /** Resolves once this one may be read, with what gives its place back; null when none came free in time. */
  async enter(signal: AbortSignal): Promise<(() => void) | null> {
    const deadline = Date.now() + this.#deadlineMs;
    while (this.#count >= this.#maxAtOnce || Date.now() < this.#nextMs) {
      if (signal.aborted || Date.now() >= deadline) return null;
      await pause(pollMs, signal);
    }
    this.#count += 1;
    this.#nextMs = Date.now() + this.#everyMs;
    let isIn = true;
    return () => {
      if (isIn) this.#count -= 1;
      isIn = false;
    };
  }
}

/** Passes on at most `maxLines` in `everyMs`, then one line that counts what was kept back: clients must not fill a disk. */
export class LineGate {
  readonly #options: { maxLines: number; everyMs: number; more: (kept: number) => void };
  #beganMs = Number.NEGATIVE_INFINITY;
  #lines = 0;
  #timer: NodeJS.Timeout | null = null;

  constructor(options: { maxLines: number; everyMs: number; more: (kept: number) => void }) {
    this.#options = options;
  }

  pass(say: () => void): void {
    const { maxLines, everyMs } = this.#options;
    if (performance.now() - this.#beganMs >= everyMs) {
      this.#tell();
      this.#beganMs = performance.now();
    }
    this.#lines += 1;
    if (this.#lines <= maxLines) say();
    else this.#timer ??= setTimeout(() => this.#tell(), everyMs).unref();
  }

  #tell(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    const kept = this.#lines - this.#options.maxLines;
    this.#lines = 0;
    if (kept > 0) this.#options.more(kept);
  }
}
