/**
 * A Grafana as its documented API has it (a stand-in: test/lab/grafana.ts), protected by the real agent and restored by the
 * real verbs from the archive alone: every kind of object, versions and their history, an agent killed, two organizations.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { GrafanaStandIn } from '../lab/grafana.ts';
import type { Body } from '../lab/grafana-store.ts';
import { furnish, GrafanaWorld, panel, save } from './grafana-world.ts';

const organizations = [
  { id: 1, name: 'Main Org.', token: 'glsa_one' },
  { id: 2, name: 'Labs', token: 'glsa_two' },
];
let world: GrafanaWorld;
let dir: string;
/** Before anything was changed, and before all was destroyed. */
let first = '';
let last = '';

beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'qazyna-grafana-'));
  // Under a path, as behind Nginx (configure-grafana: `serve_from_sub_path`).
  const urlFor = ({ url }: GrafanaStandIn) => Promise.resolve(`${url}/`);
  world = await GrafanaWorld.start({ organizations, prefix: '/tools/grafana', urlFor });
  await furnish(world.grafana);
  await save(
    world.grafana,
    'hosts',
    { title: 'Hosts', panels: [panel(1, 'CPU'), panel(2, 'Memory')], refresh: '30s' },
    { folderUid: 'net', message: 'refresh' },
  );
  await world.grafana.done('POST', '/api/folders', { uid: 'lab', title: 'Lab' }, 2);
  world.startAgent();
  await world.untilProtected();
}, 120_000);

afterAll(async () => {
  await world[Symbol.asyncDispose]();
  await rm(dir, { recursive: true, force: true });
});

/** All of it as the API tells it, without what is known to one server alone. */
async function content(grafana: GrafanaStandIn): Promise<unknown> {
  const { store, alerting } = grafana.room();
  const get = async (path: string) => (await grafana.call('GET', path)).body;
  const plain = (json: unknown): unknown =>
    JSON.parse(JSON.stringify(json), (key, value) => (local.has(key) ? undefined : value));
  return plain({
    folders: await Promise.all(
      [...store.folders.keys()]
        .sort()
        .map(async (uid) => [await get(`/api/folders/${uid}`), sorted(await get(`/api/folders/${uid}/permissions`))]),
    ),
    dashboards: [...store.dashboards.values()]
      .map(({ uid, folderUid, versions }) => [uid, folderUid, versions.at(-1)?.data])
      .sort(),
    datasources: [...store.datasources.values()],
    library: [...store.libraryElements.values()],
    rules: [...alerting.groups.values()],
    points: await get('/api/v1/provisioning/contact-points'),
    policies: alerting.policies,
    timings: [...alerting.muteTimings.values()],
    templates: [...alerting.templates.values()],
  });
}
/** Permissions have no order. */
const sorted = (items: unknown) => (items as Body[]).sort((a, b) => (String(a.role) < String(b.role) ? -1 : 1));
const local = new Set([
  'id',
  'orgId',
  'orgID',
  'version',
  'created',
  'updated',
  'updatedBy',
  'userId',
  'teamId',
  'meta',
  'secureJsonFields',
]);

/** Each of `history grafana --json`. */
async function history(args: readonly string[]): Promise<Record<string, unknown>[]> {
  const { code, stdout, stderr } = await world.verb(['history', 'grafana', ...args, '--json']);
  expect([code, stderr]).toEqual([0, '']);
  return stdout
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Record<string, unknown>);
}

test('a change is in the archive within seconds, with the versions that nobody looked at in time', async () => {
  await world.untilCaught();
  first = new Date().toISOString();
  const { grafana } = world;
  await world.daemon.end('SIGKILL');
  // Saved thrice while nobody looks.
  for (const title of ['Hosts 1', 'Hosts 2', 'Hosts 3'])
    await save(
      grafana,
      'hosts',
      { title, panels: [panel(1, 'CPU load'), panel(3, 'Disk')], refresh: '30s' },
      { folderUid: 'net', message: `to ${title}` },
    );
  await grafana.done('PUT', '/api/folders/ops', { title: 'Ops', version: 1 });
  await grafana.done('DELETE', '/api/dashboards/uid/top');
  await grafana.done('DELETE', '/api/v1/provisioning/mute-timings/weekends');
  world.startAgent();
  await world.untilCaught();
  const versions = await history(['hosts']);
  expect(
    versions.map(({ change, version, title, message, author, isPast }) => [
      change,
      version,
      title,
      message,
      author,
      isPast,
    ]),
  ).toEqual([
    ['made', 1, 'Hosts', '', 'admin', true],
    ['changed', 2, 'Hosts', 'refresh', 'admin', false],
    ['changed', 3, 'Hosts 1', 'to Hosts 1', 'admin', true],
    ['changed', 4, 'Hosts 2', 'to Hosts 2', 'admin', true],
    ['changed', 5, 'Hosts 3', 'to Hosts 3', 'admin', false],
  ]);
  const began = performance.now();
  await save(grafana, 'hosts', { title: 'Hosts 4', panels: [] }, { folderUid: 'net' });
  await world.untilCaught();
  expect(performance.now() - began).toBeLessThan(15_000);
  const changes = await history([]);
  expect(changes.filter(({ change }) => change === 'deleted').map(({ type, uid }) => [type, uid])).toEqual([
    ['dashboard', 'top'],
    ['mute-timing', 'weekends'],
  ]);
  expect(changes.filter(({ uid }) => uid === 'ops').map(({ change, title }) => [change, title])).toEqual([
    ['made', 'Operations'],
    ['changed', 'Ops'],
  ]);
  expect(changes.find(({ uid }) => uid === 'lab')).toMatchObject({ org: 2, change: 'made' });
}, 120_000);

test('what changed is shown by its place', async () => {
  const { stdout } = await world.verb(['history', 'grafana', 'hosts', '--diff']);
  expect(stdout).toMatch(
    /changed {2}dashboard Hosts \(hosts\) {2}version 2 {2}saved 20\S+Z {2}by admin {2}“refresh”\n/,
  );
  expect(stdout).toContain('    + dashboard.refresh: "30s"\n');
  expect(stdout).toContain('    ~ dashboard.title: "Hosts" → "Hosts 1"\n');
  expect(stdout).toContain('    ~ dashboard.panels[1 “CPU load”].title: "CPU" → "CPU load"\n');
  expect(stdout).toMatch(/ {4}- dashboard\.panels\[2 “Memory”\]: /);
}, 120_000);

test('all of it comes back in an empty Grafana, and once more changes nothing', async () => {
  await using empty = await GrafanaStandIn.start({ organizations: [{ id: 1, name: 'Other', token: 'glsa_other' }] });
  empty.room().store.teams.push({ id: 99, name: 'sre' });
  const wanted = await content(world.grafana);
  const planned = await world.restore(['--to', 'latest', '--org', '1', '--dry-run'], empty);
  expect([planned.code, planned.told.counts]).toEqual([0, { create: 8, update: 1, same: 1, refused: 0 }]);
  expect(empty.room().store.dashboards.size).toBe(0);
  const { code, told, error } = await world.restore(['--to', 'latest', '--org', '1'], empty);
  expect([code, error.replace(/^.*objects.*$/gm, '').trim(), told.counts]).toEqual([0, '', planned.told.counts]);
  expect(await content(empty)).toEqual(wanted);
  expect(told.secrets.map(({ uid, fields }) => [uid, fields])).toEqual([
    ['influx', ['httpHeaderValue1', 'password']],
    ['oncall', ['token']],
  ]);
  const { requests } = empty;
  const again = await world.restore(['--to', 'latest', '--org', '1'], empty);
  expect(again.told.counts).toEqual({ create: 0, update: 0, same: 10, refused: 0 });
  expect(empty.requests).toBeGreaterThan(requests);
  expect(empty.room().store.dashboards.get('hosts')?.versions).toHaveLength(1);
}, 120_000);

test('an instant of the past; what was made since is left alone, and somebody else’s save is not overwritten unseen', async () => {
  const { grafana } = world;
  await world.untilCaught();
  last = new Date().toISOString();
  await save(grafana, 'later', { title: 'Later' });
  const { code, told } = await world.restore(['--to', first, '--org', '1']);
  expect([code, told.counts.refused]).toEqual([0, 0]);
  expect(
    told.steps.filter(({ action }) => action !== 'same').map(({ action, type, uid }) => [action, type, uid]),
  ).toEqual([
    ['update', 'folder', 'ops'],
    ['update', 'dashboard', 'hosts'],
    ['create', 'dashboard', 'top'],
    ['create', 'mute-timing', 'weekends'],
  ]);
  const { store } = grafana.room();
  expect(store.dashboards.get('later')).toBeDefined();
  expect(store.dashboards.get('hosts')?.versions.at(-1)).toMatchObject({
    message: `restored by qazyna to ${first}`,
    data: { title: 'Hosts' },
  });
}, 120_000);

test('several organizations are known again by their names', async () => {
  await using twin = await GrafanaStandIn.start({
    organizations: [
      { id: 7, name: 'Labs', token: 'glsa_seven' },
      { id: 8, name: 'Main Org.', token: 'glsa_eight' },
    ],
  });
  const files = await Promise.all(
    ['glsa_seven', 'glsa_eight'].map(async (token) => {
      const file = join(dir, token);
      await writeFile(file, `${token}\n`, { mode: 0o600 });
      return file;
    }),
  );
  const restore = (...tokens: (string | undefined)[]) => {
    const given = tokens.flatMap((file) => ['--token-file', file ?? '']);
    return world.verb(['restore', 'grafana', '--to', 'latest', '--url', twin.url, ...given, '--json']);
  };
  // Their names are in the archive within a second or two (see untilCaught).
  let told = await restore(...files);
  for (const deadline = performance.now() + 30_000; told.code !== 0 && performance.now() < deadline; )
    told = await restore(...files);
  expect([told.code, twin.room(7).store.folders.has('lab'), twin.room(8).store.dashboards.has('hosts')]).toEqual([
    0,
    true,
    true,
  ]);
  expect(twin.room(7).store.dashboards.size).toBe(0);
  const one = await restore(files[0]);
  expect([one.code, one.stderr]).toEqual([2, expect.stringContaining('QZ2958')]);
  const asked = ['restore', 'grafana', '--to', 'latest', '--url', `${twin.url}/?orgId=8`, '--token-file', 'x'];
  expect((await world.verb(asked)).stderr).toContain('QZ2968');
}, 120_000);

test('what is provisioned from files is refused by name', async () => {
  const { grafana } = world;
  await save(grafana, 'filed', { title: 'From a file' });
  await world.untilCaught();
  const instant = new Date().toISOString();
  await save(grafana, 'filed', { title: 'From a file, changed' });
  await world.untilCaught();
  const { store } = grafana.room();
  const filed = store.dashboards.get('filed');
  if (filed !== undefined) filed.isProvisioned = true;
  const { code, told } = await world.restore(['--to', instant, '--dashboard', 'filed']);
  expect(code).toBe(5);
  expect(told.steps).toMatchObject([
    { uid: 'filed', action: 'refused', reason: expect.stringContaining('provisioned') },
  ]);
  expect(filed?.versions.at(-1)?.data.title).toBe('From a file, changed');
}, 120_000);

test('one dashboard with what it needs, one of its versions, and files with readable names', async () => {
  await using empty = await GrafanaStandIn.start();
  const { code, told } = await world.restore(['--to', last, '--dashboard', 'hosts', '--version', '2'], empty);
  expect(code).toBe(0);
  expect(told.steps.map(({ action, type, uid }) => [action, type, uid])).toEqual([
    ['create', 'folder', 'ops'],
    ['create', 'folder', 'net'],
    ['create', 'datasource', 'influx'],
    ['create', 'dashboard', 'hosts'],
  ]);
  expect(told.steps[0]?.notes).toEqual(['no permission for team sre, who is not in this Grafana']);
  expect(empty.room().store.dashboards.get('hosts')?.versions.at(-1)?.data).toMatchObject({ refresh: '30s' });

  const file = join(dir, 'hosts.json');
  const written = await world.verb(['restore', 'grafana', '--to', last, '--dashboard', 'hosts', '--to-file', file]);
  expect([written.code, written.stderr]).toEqual([0, '']);
  expect(JSON.parse(await readFile(file, 'utf8'))).toMatchObject({
    id: null,
    uid: 'hosts',
    title: 'Hosts 4',
    version: 6,
  });

  const tree = join(dir, 'tree');
  expect((await world.verb(['restore', 'grafana', '--to', first, '--org', '1', '--to-dir', tree])).code).toBe(0);
  const read = async (path: string) => JSON.parse(await readFile(join(tree, path), 'utf8')) as Body;
  expect(await read('dashboards/Operations/Net-work- all/Hosts.json')).toMatchObject({ uid: 'hosts', refresh: '30s' });
  expect(await read('dashboards/Top -level-.json')).toMatchObject({ uid: 'top' });
  expect(await read('datasources/datasources.yaml')).toMatchObject({
    apiVersion: 1,
    datasources: [{ name: 'InfluxDB', secureJsonData: { password: '$INFLUXDB_PASSWORD' } }],
  });
  expect(await read('alerting/rules/Operations/disks.json')).toMatchObject({
    groups: [{ orgId: 1, name: 'disks', folder: 'Operations', interval: '60s', rules: [{ uid: 'full' }] }],
  });
  const again = await world.verb(['restore', 'grafana', '--to', first, '--to-dir', tree]);
  expect([again.code, again.stderr]).toEqual([2, expect.stringContaining('QZ2960')]);
}, 120_000);
