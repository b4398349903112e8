/** One look at a Grafana (a stand-in: test/lab/grafana.ts) at a time, and what restores do when others change things. */

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from '@jest/globals';
import { examineGrafana } from '../../agent/doctor/grafana.ts';
import { objectOf } from '../../core/grafana/json.ts';
import { opened } from '../../core/grafana/state.ts';
import { GrafanaStandIn } from '../lab/grafana.ts';
import { never } from '../made/archive.ts';
import { restoring, watching } from './grafana-watching.ts';
import { furnish, panel, save } from './grafana-world.ts';

test('a look journals everything once; the next ones only what changed, for few questions', async () => {
  await using grafana = await GrafanaStandIn.start();
  await furnish(grafana);
  using watched = await watching(grafana);
  await watched.look();
  expect(await watched.kinds()).toEqual(['organization', ...Array(12).fill('object')]);
  const { requests } = grafana;
  await watched.look();
  expect(await watched.kinds()).toHaveLength(13);
  // Two folders twice, a data source, two dashboards, 12 lists with their second pages, and the organization.
  expect(grafana.requests - requests).toBeLessThanOrEqual(24);
  for (let number = 0; number < 25; number += 1)
    await save(grafana, 'hosts', { title: `Hosts ${number}` }, { folderUid: 'net' });
  await watched.look();
  // Grafana keeps 20: what it has forgotten nobody can have.
  expect((await watched.kinds()).slice(13)).toEqual([...Array(19).fill('version'), 'object']);
  await grafana.done('DELETE', '/api/dashboards/uid/hosts');
  await save(grafana, 'hosts', { title: 'Begun anew' }, { folderUid: 'net' });
  await watched.look();
  expect(watched.state.get({ org: 1, type: 'dashboard', uid: 'hosts' })?.meta).toMatchObject({
    version: 1,
    title: 'Begun anew',
  });
});

test('many pages, and folders that the search does not show', async () => {
  await using grafana = await GrafanaStandIn.start();
  const { store } = grafana.room();
  for (let number = 0; number < 1200; number += 1)
    store.saveDashboard({ dashboard: { uid: `d${number}`, title: `Number ${number}` } });
  for (let number = 0; number < 250; number += 1)
    store.saveLibraryElement(null, { uid: `l${number}`, name: `Panel ${number}`, kind: 1, model: {} });
  await grafana.done('POST', '/api/folders', { uid: 'deep', title: 'Deep' });
  await save(grafana, 'd0', { title: 'Number 0' }, { folderUid: 'deep' });
  using watched = await watching(grafana);
  grafana.onRequest = (_, path) => {
    grafana.faults = path === '/api/search' ? { shortLists: 1100 } : {};
  };
  await watched.look();
  const types = [...watched.state.objects.values()].map(({ meta }) => meta.type);
  const count = (type: string) => types.filter((one) => one === type).length;
  expect([count('dashboard'), count('library-element'), count('folder')]).toEqual([1200, 250, 1]);
}, 120_000);

test('what no list shows is asked for, each kind in its own way, and is not gone', async () => {
  await using grafana = await GrafanaStandIn.start();
  await furnish(grafana);
  using watched = await watching(grafana);
  await watched.look();
  // Neither is a folder whose permissions alone cannot be told.
  grafana.faults = { shortLists: 0, refuse: { path: '/api/folders/ops/permissions', status: 404 } };
  await watched.look();
  grafana.onRequest = (_, path) => {
    const isList = /^\/api\/(search|datasources|v1\/provisioning\/[a-z-]+)$/.test(path);
    grafana.faults = isList ? { shortLists: 0 } : {};
  };
  await watched.look();
  expect([watched.counters.deletions_total, await watched.kinds()]).toEqual([
    0,
    expect.not.arrayContaining(['deleted']),
  ]);
});

test('a Grafana that cannot list its alert rules says so; one without alerting has none', async () => {
  await using grafana = await GrafanaStandIn.start({ version: '9.3.6' });
  using watched = await watching(grafana);
  expect((await watched.look()).lacksRules).toBe(true);
  grafana.faults = { refuse: { path: '/api/v1/provisioning', status: 404 } };
  expect((await watched.look()).lacksRules).toBe(false);
});

test('a look that ends in another organization than it began in believes no deletion', async () => {
  await using grafana = await GrafanaStandIn.start();
  await furnish(grafana);
  using watched = await watching(grafana);
  await watched.look();
  await grafana.done('DELETE', '/api/dashboards/uid/top');
  grafana.onRequest = (method, path) => {
    if (method === 'GET' && path === '/api/dashboards/uid/top') grafana.faults = { tokens: 'other' };
  };
  await expect(watched.look()).rejects.toMatchObject({ code: 'QZ4953' });
  expect(watched.counters.deletions_total).toBe(0);
  grafana.onRequest = () => undefined;
  grafana.faults = {};
  await watched.look();
  expect(watched.counters.deletions_total).toBe(1);
});

test('a server that does not answer in time, and an object that no frame can hold', async () => {
  await using grafana = await GrafanaStandIn.start();
  await save(grafana, 'large', { title: 'Large', image: 'x'.repeat(9 * 1024 * 1024) });
  await save(grafana, 'small', { title: 'Small' });
  using watched = await watching(grafana, { answerMs: 2000 });
  for (let look = 0; look < 2; look += 1) expect((await watched.look()).tooLarge).toEqual(['dashboard Large (large)']);
  expect(watched.state.get({ org: 1, type: 'dashboard', uid: 'small' })).not.toBeNull();
  await grafana.done('DELETE', '/api/dashboards/uid/large');
  expect((await watched.look()).tooLarge).toEqual([]);
  grafana.faults = { delayMs: 5000 };
  await expect(watched.look()).rejects.toMatchObject({ code: 'QZ4950', message: expect.stringContaining('2000 ms') });
}, 120_000);

test('more than can be asked in time: what lists show is seen by each look, and all the rest in turn', async () => {
  await using grafana = await GrafanaStandIn.start();
  const { store } = grafana.room();
  const put = (uid: string, title: string) => store.saveDashboard({ dashboard: { uid, title }, overwrite: true });
  for (let number = 0; number < 300; number += 1) put(`d${number}`, `Number ${number}`);
  for (const { versions } of store.dashboards.values())
    for (const version of versions) version.created = '2026-01-02T03:04:05Z';
  const everyMs = 300;
  using watched = await watching(grafana, { answerMs: 10_000 }, everyMs);
  // The first takes as long as it takes: all of them are new.
  const first = await watched.look();
  expect([first.seenMicros !== null, watched.state.objects.size]).toEqual([true, 302]);
  grafana.faults = { delayMs: 20 };
  const title = (uid: string) => watched.state.get({ org: 1, type: 'dashboard', uid })?.meta.title;
  const version = (uid: string) => watched.state.get({ org: 1, type: 'dashboard', uid })?.meta.version;
  await watched.look();
  put('d299', 'Renamed');
  put('new', 'New');
  store.deleteDashboard('d298');
  for (const uid of ['d3', 'd150', 'd297']) put(uid, `Number ${uid.slice(1)}`);
  const changedMicros = Date.now() * 1000;
  const { requests } = grafana;
  const { seenMicros } = await watched.look();
  expect([title('d299'), title('new'), title('d298')]).toEqual(['Renamed', 'New', undefined]);
  expect(grafana.requests - requests).toBeLessThan(300);
  expect(seenMicros).toBeLessThan(changedMicros);
  const isAllSeen = ({ seenMicros: now }: { seenMicros: number | null }) => (now ?? 0) >= changedMicros;
  let looks = 0;
  while (!isAllSeen(await watched.look())) {
    looks += 1;
    expect(looks).toBeLessThan(100);
  }
  expect(['d3', 'd150', 'd297'].map(version)).toEqual([2, 2, 2]);
  expect([looks > 0, watched.counters.deletions_total]).toEqual([true, 1]);
}, 120_000);

test('a dashboard that Grafana cannot show makes each look fail, and keeps no other from being seen', async () => {
  await using grafana = await GrafanaStandIn.start();
  for (let number = 0; number < 40; number += 1) await save(grafana, `d${number}`, { title: `Number ${number}` });
  using watched = await watching(grafana);
  await watched.look();
  // It is the one that was saved last, and so the first to be asked.
  grafana.faults = { refuse: { path: '/api/dashboards/uid/d39/', status: 500 } };
  await expect(watched.look()).rejects.toMatchObject({ code: 'QZ4951' });
  for (const uid of ['d0', 'd20', 'd38']) await save(grafana, uid, { title: `Number ${uid.slice(1)}`, panels: [] });
  await expect(watched.look()).rejects.toMatchObject({ code: 'QZ4951' });
  const version = (uid: string) => watched.state.get({ org: 1, type: 'dashboard', uid })?.meta.version;
  expect(['d0', 'd20', 'd38'].map(version)).toEqual([2, 2, 2]);
  expect(watched.counters.deletions_total).toBe(0);
  grafana.faults = {};
  expect((await watched.look()).seenMicros).not.toBeNull();
});

test('in which folder a library panel lies is not taken from the list, which shows where it was made', async () => {
  await using grafana = await GrafanaStandIn.start();
  await furnish(grafana);
  using watched = await watching(grafana);
  await watched.look();
  const path = '/api/library-elements/lib-load';
  const { result } = (await grafana.done('GET', path)) as { result: { version: number; name: string; kind: number } };
  await grafana.done('PATCH', path, { ...result, folderUid: 'net' });
  await watched.look();
  const kept = watched.state.get({ org: 1, type: 'library-element', uid: 'lib-load' });
  expect(objectOf(kept && opened(kept).content).folderUid).toBe('net');
  const { requests } = grafana;
  await watched.look();
  expect(grafana.requests - requests).toBeLessThanOrEqual(24);
});

test('what belongs to the API is brought back also by a Grafana that does not say that it does (before 10.4)', async () => {
  await using grafana = await GrafanaStandIn.start({ version: '10.2.0' });
  const { alerting } = grafana.room();
  alerting.saveTemplate('short', { template: 'as it was' }, false);
  using watched = await watching(grafana);
  await watched.look();
  alerting.saveTemplate('short', { template: 'changed' }, false);
  expect(await restoring(watched.state, grafana)).toContainEqual({ what: 'update template short', reason: '' });
  expect(alerting.templates.get('short')).toMatchObject({ template: 'as it was', provenance: 'api' });
});

test('all versions are seen also where Grafana lists only some at once', async () => {
  await using grafana = await GrafanaStandIn.start({ version: '12.2.0' });
  grafana.faults = { versionsAtOnce: 2 };
  await save(grafana, 'hosts', { title: 'Hosts' });
  using watched = await watching(grafana);
  await watched.look();
  for (let number = 0; number < 7; number += 1) await save(grafana, 'hosts', { title: `Hosts ${number}` });
  await watched.look();
  expect((await watched.kinds()).slice(-7)).toEqual([...Array(6).fill('version'), 'object']);
});

test.each([
  ['kept as they are stored, and come back so', false],
  ['read by the newer API where the older one refuses', true],
])('dashboards of the second schema (12) are %s', async (_, refusesSecondSchema) => {
  const version = '12.1.0';
  await using grafana = await GrafanaStandIn.start({ version, hidesVersion: true });
  grafana.faults = { refusesSecondSchema };
  const spec = { title: 'Tabs', layout: { kind: 'TabsLayout', spec: { tabs: [] } } };
  const write = (title: string, resourceVersion?: string) =>
    grafana.done(
      resourceVersion === undefined ? 'POST' : 'PUT',
      `/apis/dashboard.grafana.app/v2beta1/namespaces/default/dashboards${resourceVersion === undefined ? '' : '/tabs'}`,
      {
        apiVersion: 'dashboard.grafana.app/v2beta1',
        metadata: { name: 'tabs', ...(resourceVersion === undefined ? {} : { resourceVersion }) },
        spec: { ...spec, title },
      },
    );
  await write('Tabs');
  await save(grafana, 'plain', { title: 'Plain', panels: [panel(1, 'CPU')] });
  using watched = await watching(grafana);
  await watched.look();
  const kept = watched.state.get({ org: 1, type: 'dashboard', uid: 'tabs' });
  if (kept === null) throw new Error('it was not kept');
  expect(objectOf(opened(kept).content).resource).toEqual({ apiVersion: 'dashboard.grafana.app/v2beta1', spec });
  expect(kept.meta).toMatchObject({ title: 'Tabs', version: 1, author: 'admin' });
  await watched.look();
  expect(watched.counters.changes_total).toBe(watched.state.objects.size);
  await using empty = await GrafanaStandIn.start({ version });
  empty.faults = { refusesSecondSchema };
  const made = ['create dashboard plain', 'create dashboard tabs'];
  const dashboards = (steps: { what: string }[]) =>
    steps.map(({ what }) => what).filter((what) => what.includes('dashboard'));
  expect(dashboards(await restoring(watched.state, empty))).toEqual(made);
  expect(empty.room().store.resources.get('tabs')?.spec).toEqual(spec);
  expect(dashboards(await restoring(watched.state, empty))).toEqual(['same dashboard plain', 'same dashboard tabs']);
  await write('Tabs, changed', '2');
  expect(dashboards(await restoring(watched.state, grafana))).toEqual([
    'same dashboard plain',
    'update dashboard tabs',
  ]);
  expect(grafana.room().store.resources.get('tabs')?.spec).toEqual(spec);
});

test('whoever saves between the look and the write of a restore is seen: looked at anew, in the end refused', async () => {
  await using grafana = await GrafanaStandIn.start();
  await furnish(grafana);
  using watched = await watching(grafana);
  await watched.look();
  const meddle = (times: number) => {
    let left = times;
    grafana.onRequest = (method, path) => {
      if (method !== 'POST' || path !== '/api/dashboards/db' || left === 0) return;
      left -= 1;
      grafana.room().store.saveDashboard({
        dashboard: { uid: 'hosts', title: `Meddled ${left}` },
        folderUid: 'net',
        overwrite: true,
      });
    };
  };
  const onlyHosts = { dashboard: 'hosts' };
  await save(grafana, 'hosts', { title: 'Changed' }, { folderUid: 'net' });
  meddle(1);
  expect(await restoring(watched.state, grafana, onlyHosts)).toEqual([{ what: 'update dashboard hosts', reason: '' }]);
  meddle(3);
  await save(grafana, 'other', { title: 'Other' });
  grafana
    .room()
    .store.saveDashboard({ dashboard: { uid: 'hosts', title: 'Changed again' }, folderUid: 'net', overwrite: true });
  meddle(3);
  const [refused] = await restoring(watched.state, grafana, onlyHosts);
  expect(refused).toEqual({
    what: 'refused dashboard hosts',
    reason: 'Grafana answers 412: The dashboard has been changed by someone else',
  });
});

test('a group of alert rules is brought back with the rules that were made in it since', async () => {
  await using grafana = await GrafanaStandIn.start();
  await furnish(grafana);
  using watched = await watching(grafana);
  await watched.look();
  const path = '/api/v1/provisioning/folder/ops/rule-groups/disks';
  const { rules } = (await grafana.done('GET', path)) as { rules: Record<string, unknown>[] };
  const later = { ...rules[0], uid: 'later', title: 'Disk slow' };
  await grafana.done('PUT', path, { interval: 10, rules: [{ ...rules[0], title: 'Changed' }, later] });
  const groups = async () =>
    (await restoring(watched.state, grafana)).filter(({ what }) => what.includes('rule-group'));
  expect((await groups()).map(({ what }) => what)).toEqual(['update rule-group ops/disks']);
  expect(grafana.room().alerting.groups.get('ops/disks')).toMatchObject({
    interval: 60,
    rules: [{ title: 'Disk full' }, { title: 'Disk slow' }],
  });
  expect((await groups()).map(({ what }) => what)).toEqual(['same rule-group ops/disks']);
});

test('a folder gets its title back also where Grafana counts no versions of it', async () => {
  await using grafana = await GrafanaStandIn.start({ version: '10.1.0' });
  await furnish(grafana);
  grafana.faults = { foldersWithoutVersions: true };
  using watched = await watching(grafana);
  await watched.look();
  await grafana.done('PUT', '/api/folders/ops', { title: 'Changed', overwrite: true });
  const steps = (await restoring(watched.state, grafana)).filter(({ what }) => !what.startsWith('same'));
  expect(steps).toEqual([{ what: 'update folder ops', reason: '' }]);
  expect(grafana.room().store.folders.get('ops')?.title).toBe('Operations');
});

test('what belongs to the provisioning API, to files, and to nobody', async () => {
  await using grafana = await GrafanaStandIn.start();
  await furnish(grafana);
  const { alerting, store } = grafana.room();
  alerting.savePoint(null, { uid: 'api', name: 'by API', type: 'webhook', settings: { url: 'http://x' } }, false);
  using watched = await watching(grafana);
  await watched.look();
  const change = (name: string, more: Record<string, unknown>) => {
    const found = alerting.contactPoints.get(name);
    if (found !== undefined) alerting.contactPoints.set(name, { ...found, ...more });
  };
  change('api', { disableResolveMessage: true });
  change('oncall', { disableResolveMessage: true, provenance: 'file' });
  const datasource = store.datasources.get('influx');
  if (datasource !== undefined)
    store.datasources.set('influx', { ...datasource, readOnly: true, url: 'http://elsewhere' });
  const steps = (await restoring(watched.state, grafana)).filter(({ what }) => !what.startsWith('same'));
  expect(steps.map(({ what }) => what)).toEqual([
    'refused datasource influx',
    'update contact-point api',
    'refused contact-point oncall',
  ]);
  expect(steps[0]?.reason).toContain('provisioned from files');
  const restored = alerting.contactPoints.get('api');
  expect([restored?.provenance, restored?.disableResolveMessage]).toEqual(['api', undefined]);
});

test('the doctor says whether a token is good, what it may not see, and what is too old', async () => {
  const dir = await mkdtemp(join(tmpdir(), 'qazyna-grafana-doctor-'));
  const tokenFile = join(dir, 'token');
  await writeFile(tokenFile, 'glsa_one\n', { mode: 0o600 });
  const findings = async (url: string) => {
    const config = {
      kind: 'grafana' as const,
      name: 'main',
      url,
      tokenFiles: [tokenFile],
      checkEveryMs: 1000,
      snapshotsEveryMs: 60_000,
    };
    const found = await examineGrafana(config, { environment: {}, signal: never });
    return found.map(({ code, severity }) => `${severity} ${code}`);
  };
  try {
    await using grafana = await GrafanaStandIn.start({ prefix: '/grafana' });
    await furnish(grafana);
    expect(await findings(grafana.url)).toEqual(['ok QZ2959']);
    expect(await findings(`http://127.0.0.1:${grafana.port}`)).toEqual(['fail QZ4951']);
    grafana.faults = { refuse: { path: '/api/folders/ops/permissions', status: 403 } };
    expect(await findings(grafana.url)).toEqual(['fail QZ2951']);
    grafana.faults = { tokens: 'expired' };
    expect(await findings(grafana.url)).toEqual(['fail QZ2950']);
    expect(await findings('http://127.0.0.1:1')).toEqual(['fail QZ4950']);
    await using old = await GrafanaStandIn.start({ version: '8.5.2' });
    expect(await findings(old.url)).toEqual(['fail QZ2952']);
    await using early = await GrafanaStandIn.start({ version: '9.3.6' });
    expect(await findings(early.url)).toEqual(['ok QZ2959', 'warn QZ2967']);
    await using slow = await GrafanaStandIn.start();
    for (let number = 0; number < 600; number += 1)
      slow.room().store.saveDashboard({ dashboard: { uid: `d${number}`, title: `Number ${number}` } });
    slow.faults = { delayMs: 150 };
    expect(await findings(slow.url)).toEqual(['ok QZ2959', 'warn QZ2966']);
    await using newer = await GrafanaStandIn.start({ version: '14.0.0' });
    expect(await findings(newer.url)).toEqual(['ok QZ2959', 'warn QZ2965']);
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
});
