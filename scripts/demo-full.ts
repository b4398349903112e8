/**
 * `npm run demo:full`: the same job with every part a process of its own, as on several hosts: three Kafka brokers, an S3
 * server, one shipper for each archive, and beside MySQL an InfluxDB and a stand-in for a Grafana. In the middle a broker, the
 * offsite shipper and the S3 server are killed and come back. Then the source, a database of InfluxDB and the Grafana are
 * destroyed, and all restores know only the bucket. Exit code 0 as in `npm run demo`.
 */
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import type { StatusReport } from '../agent/http/status.ts';
import { formatDuration, formatInstant } from '../core/progress/format.ts';
import { nowMicros } from '../test/lab/ledger.ts';
import { GrafanaShow } from './demo/grafana.ts';
import { InfluxdbShow } from './demo/influxdb.ts';
import { run, Stage, say, timed, untilProtected, verdict } from './demo/stage.ts';
import { ensureTools } from './setup/tools.ts';
import { main } from './setup.ts';

const outageMs = 5000;
const caughtUpWithinMs = 120_000;
/** The offsite archive follows again when it is not further behind than this. */
const followsWithinMs = 2500;

async function demo(): Promise<boolean> {
  const { env } = await ensureTools(['mysqld', 'mysql', 'kafka-server', 'kafka-storage', 'versitygw', 'influxd']);
  process.env.PATH = env.PATH;
  await using stage = await Stage.open({ kafka: 3, s3: true, influxdb: true });
  const { lab } = stage;
  say(`three Kafka brokers (${lab.kafka?.bootstrap.join(', ')}) and an S3 server (${lab.s3?.endpoint})`);
  await using grafana = await GrafanaShow.start(stage);
  const config = ['--config', lab.configFile];
  const ship = (archive: string) =>
    stage.start(['shipper', '--archive', archive, '--listen', '127.0.0.1:0', ...config]);
  const agent = stage.start(['agent', ...config]);
  const onsite = ship('onsite');
  const offsite = ship('offsite');
  await stage.startWorkload();
  const influxdb = await InfluxdbShow.start(stage);
  await untilProtected(lab);
  const snapshot = await timed(() => run(['snapshot', 'take', ...config, '--json']));
  say(`snapshot taken in ${formatDuration(snapshot.ms)}, into both archives`);
  await sleep(2000);

  await lab.kafka?.kill(0);
  offsite.kill('SIGKILL');
  await lab.s3?.kill();
  say('a broker, the offsite shipper and the S3 server killed with kill -9; the clients commit on');
  await sleep(outageMs);
  await Promise.all([lab.s3?.restart(), lab.kafka?.restart(0)]);
  const again = ship('offsite');
  say('all three are back');
  const caughtUp = await timed(() => untilOffsiteFollows(lab.httpPort));
  say(`the offsite archive has caught up after ${formatDuration(caughtUp.ms)}`);

  const middle = nowMicros();
  say(`remember this instant: ${formatInstant(middle)}`);
  await sleep(4000);
  const killed = await stage.destroySource();
  await influxdb.drop();
  await influxdb.untilArchived();
  await grafana.destroy();
  for (const daemon of [agent, onsite, again]) {
    const ended = once(daemon, 'exit');
    daemon.kill('SIGTERM');
    await ended;
  }

  const from = ['--from', lab.offsiteUrl];
  const latest = await stage.restore('restored to the end, from the bucket', 'latest', from);
  const instant = formatInstant(middle);
  const before = await stage.restore(`restored to ${instant}`, instant, from, middle);
  const points = await influxdb.restore(from);
  const boards = await grafana.restore(from);
  return verdict([latest, before], killed, snapshot.ms, [points, boards]);
}

async function untilOffsiteFollows(httpPort: number): Promise<void> {
  const deadline = performance.now() + caughtUpWithinMs;
  while (performance.now() < deadline) {
    const answer = await fetch(`http://127.0.0.1:${httpPort}/status`).catch(() => null);
    const status = answer === null ? null : ((await answer.json()) as StatusReport);
    const offsite = status?.archives.find(({ name }) => name === 'offsite');
    const through = Math.max(offsite?.lastCommitMicros ?? 0, offsite?.completeThroughMicros ?? 0);
    if (offsite?.state === 'following' && nowMicros() - through < followsWithinMs * 1000) return;
    await sleep(100);
  }
  throw new Error(`the offsite archive did not catch up within ${formatDuration(caughtUpWithinMs)}`);
}

await main(async () => ((await demo()) ? 0 : 5));
