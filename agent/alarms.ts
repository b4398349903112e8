/** What is wrong right now. An alarm stays until what raised it clears it; status, health and metrics show it. */
import type { Logger } from '../core/logging/logger.ts';

export interface Alarm {
  /** Stable name of the thing that is wrong, e.g. `capture`, `archive:offsite`, `snapshot`. One alarm a topic. */
  topic: string;
  code: string;
  sentence: string;
  hint: string;
  /** Since when, ms since 1970 on this host's clock. */
  sinceMs: number;
}

export class Alarms {
  readonly #active: Map<string, Alarm>;
  readonly #logger: Logger;
  readonly #prefix: string;

  constructor(logger: Logger, shared?: { active: Map<string, Alarm>; prefix: string }) {
    this.#logger = logger;
    this.#active = shared?.active ?? new Map<string, Alarm>();
    this.#prefix = shared?.prefix ?? '';
  }

  /** The same alarms for a part of the whole, whose topics begin with its name. */
  of(part: string): Alarms {
    return new Alarms(this.#logger, { active: this.#active, prefix: `${this.#prefix}${part}:` });
  }

  /** What is wrong with it, or null once it is not any more. */
  tell(name: string, error: { code: string; message: string; hint: string } | null): void {
    if (error === null) this.clear(name);
    else this.raise(name, error);
  }

  raise(name: string, error: { code: string; message: string; hint: string }): void {
    const topic = `${this.#prefix}${name}`;
    const present = this.#active.get(topic);
    if (present?.code === error.code && present.sentence === error.message) return;
    const alarm = {
      topic,
      code: error.code,
      sentence: error.message,
      hint: error.hint,
      sinceMs: present?.sinceMs ?? Date.now(),
    };
    this.#active.set(topic, alarm);
    this.#logger.error(`ALARM ${topic}: ${error.message}`, { code: error.code, hint: error.hint });
  }

  clear(name: string): void {
    const topic = `${this.#prefix}${name}`;
    const present = this.#active.get(topic);
    if (!present) return;
    this.#active.delete(topic);
    this.#logger.info(`alarm over: ${topic}`, { code: present.code, lastedMs: Date.now() - present.sinceMs });
  }

  list(): Alarm[] {
    const own = [...this.#active.values()].filter(({ topic }) => topic.startsWith(this.#prefix));
    return own.sort((a, b) => a.sinceMs - b.sinceMs);
  }
}
