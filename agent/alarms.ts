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
  readonly #active = new Map<string, Alarm>();
  readonly #logger: Logger;

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  raise(topic: string, error: { code: string; message: string; hint: string }): void {
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

  clear(topic: string): void {
    const present = this.#active.get(topic);
    if (!present) return;
    this.#active.delete(topic);
    this.#logger.info(`alarm over: ${topic}`, { code: present.code, lastedMs: Date.now() - present.sinceMs });
  }

  list(): Alarm[] {
    return [...this.#active.values()].sort((a, b) => a.sinceMs - b.sinceMs);
  }
}
