/** Allows a Grafana so many requests a second, as Grafana Cloud and proxies do. */

export interface Refusal {
  status: number;
  body: unknown;
  headers: Record<string, string>;
}

export class RateLimit {
  refused = 0;
  /** Requests that came again before the instant that `Retry-After` had told. */
  early = 0;
  readonly #perSecond: number;
  readonly #retryAfterS: number | null;
  readonly #toldMs = new Map<string, number>();
  #windowMs = 0;
  #count = 0;

  /** `retryAfterS`: the header, null: there is none. */
  constructor(perSecond: number, retryAfterS: number | null) {
    this.#perSecond = perSecond;
    this.#retryAfterS = retryAfterS;
  }

  /** null: it is allowed. */
  refusal(request: string): Refusal | null {
    const nowMs = performance.now();
    if (nowMs < (this.#toldMs.get(request) ?? 0)) this.early += 1;
    if (nowMs >= this.#windowMs + 1000) {
      this.#windowMs = nowMs;
      this.#count = 0;
    }
    this.#count += 1;
    if (this.#count <= this.#perSecond) return null;
    this.refused += 1;
    const refusal = { status: 429, body: { message: 'too many requests' }, headers: {} };
    const seconds = this.#retryAfterS;
    if (seconds === null) return refusal;
    this.#toldMs.set(request, nowMs + seconds * 1000);
    return { ...refusal, headers: { 'retry-after': String(seconds) } };
  }
}
