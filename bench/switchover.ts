/** Switchover as clients see it: under load the roles are exchanged back and forth; no commit is lost, and the gap is short. */
import { askStandby } from '../standby/control.ts';
import { atMost, type BenchContext, type Figure } from './figure.ts';
import { Clients, openPair } from './pair.ts';

export const name = 'switchover';

const rounds = 10;
const barMs = 1000;

export async function run({ workDir, log, signal }: BenchContext): Promise<Figure[]> {
  await using pair = await openPair(workDir, '{ automatic: false }', signal);
  const outages: number[] = [];
  let nextId = 1;
  for (let round = 1; round <= rounds; round++) {
    const clients = new Clients(pair, nextId, signal);
    await clients.more(300);
    const beganMs = performance.now();
    await askStandby(pair.standby.dir, 'switchover', {}, { onStep: () => undefined, signal });
    await clients.more(300);
    await clients.stop();
    pair.exchange();
    const connection = await pair.primary.connect();
    const missing = await clients.missingFrom(connection);
    await connection.close();
    if (missing.length > 0)
      throw new Error(`round ${round}: ${missing.length} commits that clients were told of are lost`);
    outages.push(clients.outageMs(beganMs));
    nextId = clients.nextId;
    log(`round ${round}: ${Math.round(outages.at(-1) ?? 0)} ms without a commit`);
    await pair.primary.until('RPO 0', ({ rpoZero }) => rpoZero);
    await pair.standby.untilFollowing();
  }
  return [atMost('longest time without a commit, seen by clients under load', 'ms', outages, barMs)];
}
