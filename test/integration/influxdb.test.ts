/** A real InfluxDB 1.8, protected by the agent and restored: what is nasty, what is past, and what was dropped on the way. */
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { InfluxdbWorld } from './influxdb-world.ts';

const databases = ['nasty', 'past', 'cut', 'storm'];
let world: InfluxdbWorld;

beforeAll(async () => {
  // Little is held back for a subscription, so that it drops soon.
  const settings = { subscriber: ['write-buffer-size = 20', 'write-concurrency = 4'] };
  world = await InfluxdbWorld.start({ databases, settings });
  for (const name of databases) await world.query(`CREATE DATABASE "${name}"`);
  await world.query('CREATE RETENTION POLICY "two weeks" ON "nasty" DURATION 336h REPLICATION 1 SHARD DURATION 24h');
  await writeChangingTypes();
}, 120_000);

afterAll(() => world[Symbol.asyncDispose]());

const at = 1_700_000_000_000_000_000n;
const dayNs = 86_400_000_000_000n;

async function alterChanging(how: string): Promise<void> {
  await world.query(`ALTER RETENTION POLICY changing ON "cut" ${how}`);
}

async function writeChanging(line: string): Promise<void> {
  expect(await world.write('cut', line, { rp: 'changing' })).toMatchObject({ status: 204 });
}

/** A field has one type in a shard: where shards are cut otherwise, one of its values is refused. */
async function writeChangingTypes(): Promise<void> {
  await world.query('CREATE RETENTION POLICY changing ON "cut" DURATION INF REPLICATION 1 SHARD DURATION 1d');
  await writeChanging(`kind v="text" ${at}`);
  await writeChanging(`kind v=true ${at + dayNs}`);
  await writeChanging(`kind v=1.5 ${at + 63n * dayNs}`);
  await alterChanging('SHARD DURATION 7d');
  // A shard of that week, which overlaps the one of that day.
  await writeChanging(`kind v=2.5 ${at + 66n * dayNs}`);
}
const nowNs = () => `${Date.now()}000000`;

/** Taken or not, as InfluxDB 1.8 says; those that it takes must come back. */
const nasty: [line: string | Buffer, isTaken: boolean][] = [
  [`plain v=1 ${at}`, true],
  [`integers a=9223372036854775807i,b=-9223372036854775808i,c=0i ${at}`, true],
  [`unsigned a=18446744073709551615u ${at}`, false],
  [`floats a=1.7976931348623157e308,b=5e-324,c=-0,d=0.1,e=1e21,f=123456789012345680 ${at}`, true],
  [`nan a=NaN ${at}`, false],
  [`strings a="",b="q\\"uo\\\\te",c="com,ma =x",d="new\nline",e="ünï☃",f="back\\slash" ${at}`, true],
  [`booleans a=t,b=FALSE ${at}`, true],
  [`we\\ ir\\,d,t\\ a\\=g=v\\,al\\ ue\\=x fi\\ eld\\,\\=k=1i ${at}`, true],
  [`samename,v=tag v=2 ${at}`, true],
  [`emptytag,t= v=1 ${at}`, false],
  [`control\0\rs,t=a\0\r v="\0\r" ${at}`, true],
  [`time,t=a time=1 ${at}`, false],
  [`timed,t=a time=1,v=1 ${at}`, true],
  [Buffer.from(`bad\xff,t\xfe=v\xfd f="\xc3\x28" ${at}`, 'latin1'), true],
  [`"quoted",t="q" v="x","f"=1i ${at}`, true],
  [`early v=1 -1000000000`, true],
  ['ends v=1 -9223372036854775806\nends v=2 9223372036854775806', true],
  [`sparse a=1 ${at}\nsparse b=2i ${at}\nsparse c="3" ${at + 1n}`, true],
  [`order v=3 ${at + 30n}\norder v=1 ${at + 10n}\norder v=2 ${at + 20n}`, true],
  [`twice v=1 ${at}\ntwice v=2 ${at}`, true],
  [`conflict v=1 ${at}`, true],
  [`conflict v="text" ${at + 1n}`, false],
];

async function writeNasty(shift: string): Promise<void> {
  for (const [line, isTaken] of nasty) {
    const { status } = await world.write('nasty', line);
    expect([String(line), status < 300, shift]).toEqual([String(line), isTaken, shift]);
  }
}

test('nasty points, before and after the first snapshot, come back as they were', async () => {
  await writeNasty('before');
  await world.write('nasty', `policies,p=a v=1 ${nowNs()}`, { rp: 'two weeks' });
  world.startAgent();
  await world.untilProtected();
  // The same once more, through the subscription; and what only the journal has.
  await writeNasty('after');
  await world.write('nasty', 'precise v=1 1700000000', { precision: 's' });
  await world.write('nasty', 'precise v=2 1700000001000', { precision: 'ms' });
  await world.write('nasty', 'precise v=3 1700000002000000', { precision: 'u' });
  await world.write('nasty', `policies,p=b v=2 ${nowNs()}`, { rp: 'two weeks' });
  await world.write('nasty', `fresh v=1.5 ${at}\nfresh v=2.5 ${at + 1n}`);
  await world.untilCaught();
  const { code, report, error } = await world.restore([
    '--to',
    'latest',
    '--from-database',
    'nasty',
    '--database',
    'nasty_again',
  ]);
  expect([code, error.replace(/^.*points.*$/gm, '').trim()]).toEqual([5, '']);
  // InfluxDB forwards what it refused as well: by the types that it told one is known, and it refuses the other again.
  expect(report.setAside).toBe(2);
  expect(await readFile(report.setAsideFile ?? '', 'utf8')).toMatch(
    /field type conflict.*is type string.*float\nconflict v="text"/,
  );
  await world.expectSame('nasty', 'nasty_again');
  expect(report.policies).toEqual([
    { name: 'autogen', duration: '0s', isDefault: true, isApplied: true },
    { name: 'two weeks', duration: '336h0m0s', isDefault: false, isApplied: true },
  ]);
}, 180_000);

test('an instant of the past, before points were changed and deleted; an existing database is left alone', async () => {
  await world.write('past', `kept v=1 ${at}\nchanged v=1 ${at}\ngone,t=a v=1 ${at}`);
  await world.untilCaught();
  const instant = new Date().toISOString();
  const wanted = await world.content('past');
  await sleep(5);
  await world.write('past', `changed v=2 ${at}\nlater v=1 ${at}`);
  await world.query('DROP SERIES FROM "gone"', 'past');
  await world.untilCaught();
  const { code } = await world.restore(['--to', instant, '--from-database', 'past', '--database', 'past_then']);
  expect(code).toBe(0);
  expect(await world.content('past_then')).toEqual(wanted);
  const again = await world.restore([
    '--to',
    'latest',
    '--from-database',
    'past',
    '--database',
    'past_then',
    '--work',
    '/nonexistent',
  ]);
  expect([again.code, again.error]).toEqual([2, expect.stringContaining('QZ2927')]);
  expect(await world.content('past_then')).toEqual(wanted);
}, 180_000);

test('a policy whose shards became longer and then shorter, and that keeps points for less long than it did', async () => {
  await alterChanging('SHARD DURATION 1d');
  await world.daemon.end('SIGTERM');
  world.startAgent();
  await world.untilCaught();
  await writeChanging(`kind v=7i ${at + 100n * dayNs}`);
  await writeChanging(`kind v=8.5 ${at + 101n * dayNs}`);
  // Where two shards overlap.
  await writeChanging(`kind v=1.75 ${at + 63n * dayNs + 1n}`);
  // Accepted while the policy kept all, and still there now that it does not.
  const oldNs = BigInt(Date.now() - 7 * 86_400_000 - 600_000) * 1_000_000n;
  await writeChanging(`late v=1 ${oldNs}`);
  await alterChanging('DURATION 168h SHARD DURATION 168h');
  await world.untilCaught();
  const { code, report, error } = await world.restore([
    '--to',
    'latest',
    '--from-database',
    'cut',
    '--database',
    'cut_again',
  ]);
  expect([code, error.replace(/^.*points.*$/gm, '').trim()]).toEqual([0, '']);
  expect(report).toMatchObject({ expired: 0, setAside: 0, verified: { missing: 0, different: 0, unexpected: 0 } });
  await world.expectSame('cut', 'cut_again');
}, 180_000);

test('an agent killed, an InfluxDB restarted, and a flood beyond what a subscription holds back: in the end nothing is missing', async () => {
  const stop = new AbortController();
  let written = 0;
  const writing = (async () => {
    while (!stop.signal.aborted) {
      // Some points again and again, with other values.
      const lines = Array.from(
        { length: 20 },
        (_, index) => `load,h=h${index % 5} v=${written},n=${index}i ${at + BigInt((written * 7 + index) % 3000)}`,
      );
      const { status } = await world.write('storm', lines.join('\n')).catch(() => ({ status: 0 }));
      if (status === 204) written += 1;
      await sleep(10);
    }
  })();
  const reexported = async () => (await world.status())?.service.counters.reexported_shards_total ?? 0;
  await sleep(500);

  await world.daemon.end('SIGKILL');
  const before = written;
  while (written < before + 30) await sleep(20);
  world.startAgent();
  await world.until('what the dead agent missed', ({ service }) => (service.counters.reexported_shards_total ?? 0) > 0);

  await world.influxdb.kill();
  await world.influxdb.restart();
  const sofar = await reexported();
  await world.until(
    'what a restart may have lost',
    ({ service }) => (service.counters.reexported_shards_total ?? 0) > sofar,
  );

  const { pid } = world.daemon;
  const dropped = (await world.status())?.service.counters.lost_writes_total ?? 0;
  process.kill(pid, 'SIGSTOP');
  const flooded = written;
  while (written < flooded + 100) await sleep(20);
  process.kill(pid, 'SIGCONT');
  await world.until('what was dropped', ({ service }) => (service.counters.lost_writes_total ?? 0) > dropped);
  stop.abort();
  await writing;
  await world.untilCaught();
  const { code, error } = await world.restore([
    '--to',
    'latest',
    '--from-database',
    'storm',
    '--database',
    'storm_again',
  ]);
  expect([code, error.replace(/^.*points.*$/gm, '').trim()]).toEqual([0, '']);
  await world.expectSame('storm', 'storm_again');
}, 240_000);
