/** The one retry mechanism: what is tried again, how long, and what is said. */
import { describe, expect, test } from '@jest/globals';
import { configurationError, integrityError, transientError } from '../../core/errors/error.ts';
import { retrying } from '../../core/errors/retry.ts';
import { silentLogger } from '../../core/logging/logger.ts';

const passing = () => transientError('QZ4399', 'The network is away.', 'Wait.');

function options(changes: Partial<Parameters<typeof retrying>[2]> = {}) {
  const logger = silentLogger();
  const warnings: unknown[][] = [];
  logger.warn = ((...said: unknown[]) => {
    warnings.push(said);
    return logger;
  }) as typeof logger.warn;
  const signal = new AbortController().signal;
  return {
    warnings,
    with: { signal, logger, deadlineMs: Number.POSITIVE_INFINITY, minDelayMs: 1, maxDelayMs: 2, ...changes },
  };
}

describe('retrying', () => {
  test('passing faults are tried again, each said once, until it works', async () => {
    const { warnings, with: all } = options();
    const told: number[] = [];
    const result = await retrying(
      'fetching',
      async (attempt) => {
        if (attempt < 4) throw passing();
        return attempt;
      },
      { ...all, onFailure: (_error, attempt) => told.push(attempt) },
    );
    expect([result, told]).toEqual([4, [1, 2, 3]]);
    expect(warnings).toEqual(
      [1, 2, 3].map((attempt) => ['fetching: The network is away.', { attempt, code: 'QZ4399' }]),
    );
  });

  test.each([
    ['configuration', configurationError('QZ2999', 'Wrong.', 'Mend it.')],
    ['integrity', integrityError('QZ3999', 'Damaged.', 'Look.')],
    ['bug', new Error('bug')],
    ['bug of a type', new TypeError('x is not a function')],
  ])('%s is not', async (_kind, error) => {
    const { warnings, with: all } = options();
    let attempts = 0;
    const trying = retrying(
      'fetching',
      async () => {
        attempts += 1;
        throw error;
      },
      all,
    );
    await expect(trying).rejects.toBe(error);
    expect([attempts, warnings]).toEqual([1, []]);
  });

  test('at the deadline it ends with the last error, exit code 4', async () => {
    const { with: all } = options({ deadlineMs: 60 });
    const errors: Error[] = [];
    const started = performance.now();
    const trying = retrying(
      'fetching',
      async () => {
        const error = passing();
        errors.push(error);
        throw error;
      },
      all,
    );
    const ended = await trying.catch((error: unknown) => error);
    expect(ended).toBe(errors.at(-1));
    expect(ended).toMatchObject({ exitCode: 4 });
    expect(errors.length).toBeGreaterThan(2);
    expect(performance.now() - started).toBeLessThan(5000);
  });

  test('an abort ends the wait at once', async () => {
    const stop = new AbortController();
    const { with: all } = options({ signal: stop.signal, minDelayMs: 60_000, maxDelayMs: 60_000 });
    const trying = retrying('fetching', () => Promise.reject(passing()), {
      ...all,
      onFailure: () => setImmediate(() => stop.abort(new Error('enough'))),
    });
    await expect(trying).rejects.toThrow('enough');
  });

  test('waits grow up to their bound, and never are the same for all', async () => {
    const waits: number[] = [];
    let before = performance.now();
    await retrying(
      'fetching',
      async (attempt) => {
        const now = performance.now();
        if (attempt > 1) waits.push(now - before);
        before = now;
        if (attempt < 7) throw passing();
      },
      options({ minDelayMs: 10, maxDelayMs: 40 }).with,
    );
    expect(waits.every((wait) => wait >= 8)).toBe(true);
    expect(new Set(waits.map((wait) => wait.toFixed(3))).size).toBeGreaterThan(1);
    expect(Math.max(...waits.slice(3))).toBeGreaterThan(30);
  });

  test('what the other side asks to wait is waited, ended by an abort; what it says not to try again is not', async () => {
    const stop = new AbortController();
    const { with: all } = options({ signal: stop.signal });
    const times: number[] = [];
    const attempt = (most: number) => async () => {
      times.push(performance.now());
      if (times.length < most) throw passing();
    };
    await retrying('asking', attempt(3), { ...all, askedMs: () => 40 });
    const [first = 0, second = 0, third = 0] = times;
    expect(Math.min(second - first, third - second)).toBeGreaterThan(35);
    await expect(retrying('asking', () => Promise.reject(passing()), { ...all, askedMs: () => null })).rejects.toThrow(
      'away',
    );
    const waiting = retrying('asking', () => Promise.reject(passing()), {
      ...all,
      askedMs: () => 60_000,
      onFailure: () => setImmediate(() => stop.abort(new Error('enough'))),
    });
    await expect(waiting).rejects.toThrow('enough');
  });
});
