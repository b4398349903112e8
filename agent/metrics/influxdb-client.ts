/**
 * Lines to an InfluxDB through its own client, the one file that knows it. The client's retry buffer drops silently what
 * does not fit (https://influxdata.github.io/influxdb-client-js, WriteRetryOptions.maxBufferLines); so it is not used: one
 * try, awaited, and whoever calls decides what becomes of the lines.
 */
import { HttpError, InfluxDB } from '@influxdata/influxdb-client';
import { transientError } from '../../core/errors/error.ts';

export type MetricsPlace = { url: string } & (
  | { org: string; bucket: string; token: string }
  /** 1.x: `database` or `database/policy`; `account` is `user:password`, '' for none. */
  | { database: string; account: string }
);

/** What became of lines that were sent. `refused`: the server will never take them. */
export type SendOutcome = 'taken' | { refused: string };

export interface MetricsSender {
  /** Throws transient errors (QZ4930): the lines may be sent again. */
  send(lines: readonly string[]): Promise<SendOutcome>;
}

const answerMs = 10_000;

export function openSender(place: MetricsPlace): MetricsSender {
  const { url } = place;
  const client = new InfluxDB({ url, timeout: answerMs, ...accessTo(place) });
  const [org, bucket] = 'bucket' in place ? [place.org, place.bucket] : ['', place.database];
  return {
    send: async (lines) => {
      const options = { maxRetries: 0, maxBufferLines: 0, flushInterval: 0, batchSize: lines.length + 1 };
      let failure: unknown = null;
      // The client would only print it.
      const writeFailed = (error: unknown) => {
        failure = error;
        return Promise.resolve();
      };
      const api = client.getWriteApi(org, bucket, 'ms', { ...options, writeFailed });
      if ('database' in place) api.path = pathOf(place.database);
      api.writeRecords([...lines]);
      await api.flush();
      await api.close();
      return failure === null ? 'taken' : outcomeOf(url, failure);
    },
  };
}

function accessTo(place: MetricsPlace): { token?: string; headers?: Record<string, string> } {
  if ('bucket' in place) return { token: place.token };
  if (place.account === '') return {};
  return { headers: { authorization: `Basic ${Buffer.from(place.account).toString('base64')}` } };
}

/** The client's own path is unknown to servers before 1.8; every 1.x knows this one. */
function pathOf(place: string): string {
  const [, database = place, policy = ''] = /^([^/]*)\/(.*)$/s.exec(place) ?? [];
  return `/write?${new URLSearchParams({ db: database, rp: policy, precision: 'ms' })}`;
}

function outcomeOf(url: string, failure: unknown): SendOutcome {
  if (failure instanceof HttpError && (failure.statusCode === 400 || failure.statusCode === 422))
    return { refused: reasonOf(failure) };
  throw transientError(
    'QZ4930',
    `Metrics cannot be written to InfluxDB at ${url}: ${reasonOf(failure)}.`,
    'They are kept for a while and sent later; check metrics.influxdb and that server. The backup itself does not depend on it.',
    { cause: failure },
  );
}

function reasonOf(failure: unknown): string {
  if (failure instanceof HttpError)
    return `${failure.statusCode} ${failure.message || failure.statusMessage}`.slice(0, 300);
  const { code, message } = failure as NodeJS.ErrnoException;
  return (code ?? message ?? String(failure)).slice(0, 300);
}
