/**
 * How long the event loop was kept from a timer that was due: by our own code (the thread's time on a processor between two
 * ticks), and in all, which on a machine with fewer cores than busy programs is mostly the others' turn.
 */
const tickMs = 1;

export class StallMeter {
  ownMs = 0;
  wallMs = 0;
  #cpu = process.threadCpuUsage();
  #atMs = performance.now();
  readonly #timer = setInterval(() => this.#tick(), tickMs);

  /** Forgets what was: compilers have become warm. */
  reset(): void {
    this.#tick();
    this.ownMs = 0;
    this.wallMs = 0;
  }

  stop(): void {
    clearInterval(this.#timer);
  }

  #tick(): void {
    const nowMs = performance.now();
    const { user, system } = process.threadCpuUsage(this.#cpu);
    this.#cpu = process.threadCpuUsage();
    this.ownMs = Math.max(this.ownMs, (user + system) / 1000);
    this.wallMs = Math.max(this.wallMs, nowMs - this.#atMs - tickMs);
    this.#atMs = nowMs;
  }
}
