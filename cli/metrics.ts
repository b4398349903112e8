/** From the configuration to metrics that are sent to an InfluxDB. */
import type { Alarms } from '../agent/alarms.ts';
import { MetricsPush } from '../agent/metrics/push.ts';
import type { Config } from '../core/config/config.ts';
import { readSecret } from '../core/config/secrets.ts';
import type { StatusTeller } from './daemon-status.ts';
import type { Context } from './verb.ts';

/** Until `opened` is disposed of. Throws where a secret cannot be read; does nothing where no metrics are sent. */
export async function startMetrics(
  opened: AsyncDisposableStack,
  { metrics }: Config,
  teller: StatusTeller,
  alarms: Alarms,
  { logger, environment }: Context,
): Promise<void> {
  if (metrics === null) return;
  const { url, database, bucket, org, user, passwordFile, tokenFile, everyMs } = metrics;
  const read = { warn: (sentence: string) => logger.warn(sentence), environment };
  const secretOf = async (file: string | null) => (file === null ? '' : await readSecret(file, read));
  const account = user === null ? '' : `${user}:${await secretOf(passwordFile)}`;
  const place =
    database === null
      ? { url, org: org ?? '', bucket: bucket ?? '', token: await secretOf(tokenFile) }
      : { url, database, account };
  // Only who sends metrics loads the client.
  const { openSender } = await import('../agent/metrics/influxdb-client.ts');
  const sender = openSender(place);
  const push = new MetricsPush({ sender, status: () => teller.status(), everyMs, alarms, logger });
  teller.metricsPush = push;
  const stop = new AbortController();
  const pushing = push.run(stop.signal);
  opened.defer(async () => {
    stop.abort();
    await pushing;
  });
}
