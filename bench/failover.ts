/**
 * Failover as clients see it: under load, mysqld and the daemon beside it are killed at once, the standby takes over by
 * itself, and the clients go on there. Round after round on the same pair; each commit that a client was told of must be on
 * the new primary. What the killed server had not told anybody may be more than the history: then it begins anew.
 */
import { askStandby } from '../standby/control.ts';
import type { TwoHosts } from '../test/lab/two-hosts.ts';
import { atMost, type BenchContext, type Figure } from './figure.ts';
import { Clients, openPair } from './pair.ts';

export const name = 'failover';

const rounds = 20;
const afterMs = 2000;
/** Beyond `after`: what a promotion may take. */
const barMs = afterMs + 1000;

export async function run({ workDir, log, signal }: BenchContext): Promise<Figure[]> {
  const failover = `{ automatic: true, after: ${afterMs}ms, not_again_within: 0ms }`;
  await using pair = await openPair(workDir, failover, signal);
  const outages: number[] = [];
  let nextId = 1;
  for (let round = 1; round <= rounds; round++) {
    const clients = new Clients(pair, nextId, signal);
    await clients.more(300);
    const server = await pair.primary.serverPid();
    if (server <= 1) throw new Error('the primary has no server');
    const killedAtMs = performance.now();
    process.kill(pair.primary.pid, 'SIGKILL');
    process.kill(server, 'SIGKILL');
    await pair.standby.until('the take-over', ({ standby }) => standby?.isWritable === true);
    await clients.more(300);
    await clients.stop();
    const outageMs = clients.outageMs(killedAtMs);
    pair.exchange();
    const connection = await pair.primary.connect();
    const missing = await clients.missingFrom(connection);
    await connection.close();
    if (missing.length > 0)
      throw new Error(
        `round ${round}: ${missing.length} commits that clients were told of are lost: ${missing.slice(0, 5)}`,
      );
    outages.push(outageMs);
    nextId = clients.nextId;
    log(
      `round ${round}: out for ${Math.round(outageMs)} ms; all ${clients.told.length} commits that were told are there`,
    );
    if (round < rounds) await comeBack(pair, signal);
  }
  return [
    atMost(`outage seen by clients, after: ${afterMs} ms, one broker, every told commit present`, 'ms', outages, barMs),
  ];
}

async function comeBack(pair: TwoHosts, signal: AbortSignal): Promise<void> {
  await pair.primary.until('RPO 0', ({ rpoZero }) => rpoZero);
  pair.standby.start();
  const back = await pair.standby.until(
    'the former primary',
    ({ standby }) => standby?.role === 'fenced' || (standby?.role === 'standby' && standby.replication === 'following'),
  );
  if (back.standby?.role === 'fenced')
    await askStandby(pair.standby.dir, 'rejoin', { reseed: true }, { onStep: () => undefined, signal });
  await pair.standby.untilFollowing();
  await pair.standby.untilPlanned(({ rpoZero }) => rpoZero);
}
