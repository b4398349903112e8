/**
 * `npm run demo`: the main job on a live server. A workload that keeps a ledger of every acknowledged commit; the agent beside
 * it; the server killed and its data wiped; then two restores, to the end and to an instant in the middle, held against the
 * ledger. Exit code 0 only when nothing beyond the stated recovery point is missing and nothing is there too early.
 */
import { once } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { formatDuration, formatInstant } from '../core/progress/format.ts';
import { nowMicros } from '../test/lab/ledger.ts';
import { run, Stage, say, timed, untilProtected, verdict } from './demo/stage.ts';
import { ensureTools } from './setup/tools.ts';
import { main } from './setup.ts';

async function demo(): Promise<boolean> {
  const { env } = await ensureTools(['mysqld', 'mysql']);
  process.env.PATH = env.PATH;
  await using stage = await Stage.open();
  const { lab } = stage;
  const agent = stage.start(['run', '--config', lab.configFile]);
  await stage.startWorkload();
  await untilProtected(lab);
  await sleep(3000);
  const snapshot = await timed(() => run(['snapshot', 'take', '--config', lab.configFile, '--json']));
  say(`snapshot taken in ${formatDuration(snapshot.ms)}`);
  await sleep(4000);
  const middle = nowMicros();
  say(`remember this instant: ${formatInstant(middle)}`);
  await sleep(4000);

  const killed = await stage.destroySource();
  await sleep(500);
  agent.kill('SIGTERM');
  if (agent.exitCode === null) await once(agent, 'exit');

  const from = ['--from', `file://${lab.dir}/archives/offsite`];
  const latest = await stage.restore('restored to the end', 'latest', from);
  const instant = formatInstant(middle);
  const before = await stage.restore(`restored to ${instant}`, instant, from, middle);
  return verdict([latest, before], killed, snapshot.ms);
}

await main(async () => ((await demo()) ? 0 : 5));
