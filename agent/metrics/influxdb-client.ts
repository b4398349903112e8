/**
 * Lines to an InfluxDB through its own client, the one file that knows it. The client's retry buffer drops silently what
 * does not fit (https://influxdata.github.io/influxdb-client-js, WriteRetryOptions.maxBufferLines); so it is not used: one
 * try, awaited, and whoever calls decides what becomes of the lines.
 */
import { HttpError, InfluxDB } from '@influxdata/influxdb-client';
import { transientError } from '../../core/errors/error.ts';

export interface MetricsPlace {
  url: string;
  /** 2.x; '' for 1.8. */
  org: string;
  /** 2.x: the bucket; 1.8: `database` or `database/policy`. */
  bucket: string;
  /** 2.x: the token; 1.8: `user:password`; '' for none. */
  token: string;
}

/** What became of lines that were sent. `refused`: the server will never take them. */
export type SendOutcome = 'taken' | { refused: string };

export interface MetricsSender {
  /** Throws transient errors (QZ4930): the lines may be sent again. */
  send(lines: readonly string[]): Promise<SendOutcome>;
}

const answerMs = 10_000;

export function openSender({ url, org, bucket, token }: MetricsPlace): MetricsSender {
  const client = new InfluxDB({ url, token, timeout: answerMs });
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
      api.writeRecords([...lines]);
      await api.flush();
      await api.close();
      return failure === null ? 'taken' : outcomeOf(url, failure);
    },
  };
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
