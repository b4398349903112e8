/** Fault rows 18 to 20 and 37: an S3 service, or the way to it, that fails as it is told; behind it the real server. */
import { randomBytes } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import { openStore } from '../../core/archive/open.ts';
import { openS3Store } from '../../core/archive/s3.ts';
import { probeKey } from '../../core/archive/s3-puts.ts';
import type { ObjectStore } from '../../core/archive/store.ts';
import { selfSignedCertificate } from '../../core/stream/certificate.ts';
import { writeS3Credentials } from '../lab/s3.ts';
import { bucket, S3World } from '../made/s3.ts';
import { type Fault, S3Proxy } from '../made/s3-proxy.ts';

let world: S3World;
let proxy: S3Proxy;
beforeAll(async () => {
  world = await S3World.start();
  proxy = await S3Proxy.start(world.endpoint, world.root);
}, 120_000);
afterEach(() => {
  proxy.misbehave = () => ({ kind: 'pass' });
});
afterAll(async () => {
  await proxy[Symbol.asyncDispose]();
  await world[Symbol.asyncDispose]();
});

const text = (value: string) => [Buffer.from(value)];
const deadlines = { connectMs: 500, answerMs: 300, bytesPerSecondMin: 64 * 2 ** 20 };

/** Behind the proxy, and one on the straight way. */
async function stores(): Promise<{ store: ObjectStore; straight: ObjectStore }> {
  const prefix = world.newPrefix();
  const store = await openS3Store(new URL(await world.url(prefix, { endpoint: proxy.endpoint })), { deadlines });
  return { store, straight: await openStore(await world.url(prefix), { create: true }) };
}

/** The fault for the first `times` requests with that method, from now on. */
function first(method: string, fault: Fault, times = 1): void {
  let left = times;
  proxy.misbehave = (seen) => {
    if (seen.method !== method || left === 0) return { kind: 'pass' };
    left -= 1;
    return fault;
  };
}

describe('s3: a put whose answer is lost or wrong', () => {
  test.each<[string, Fault]>([
    ['the connection is reset after the object was made', { kind: 'lost' }],
    ['500 after the object was made', { kind: 'status-after', status: 500, code: 'InternalError' }],
    ['503 after the object was made', { kind: 'status-after', status: 503 }],
    ['409 after the object was made', { kind: 'status-after', status: 409, code: 'ConditionalRequestConflict' }],
    ['412 in answer to one’s own success, sent twice on its way', { kind: 'twice' }],
    ['no answer within the deadline, though the object was made', { kind: 'slow', ms: 1500 }],
    ['half an answer', { kind: 'half' }],
  ])('%s: looked up, created', async (_name, fault) => {
    const { store, straight } = await stores();
    first('PUT', fault);
    expect(await store.putIfAbsent('a', text('one'))).toBe('created');
    expect(await store.putIfAbsent('a', text('one'))).toBe('exists');
    expect(String(await straight.get('a'))).toBe('one');
    const info = await store.head('a');
    first('PUT', fault);
    const put = await store.putIfMatch('a', text('two'), info?.etag ?? '');
    // When it was made is not in the answer to a put.
    expect(await straight.head('a')).toEqual({ ...Object(put), modifiedMs: expect.any(Number) });
    expect(await store.putIfMatch('a', text('two'), info?.etag ?? '')).toBe('changed');
  });

  test.each<[string, Fault, string]>([
    ['500', { kind: 'status', status: 500, code: 'InternalError' }, 'QZ4406'],
    ['503 SlowDown', { kind: 'status', status: 503, code: 'SlowDown' }, 'QZ4406'],
    ['429', { kind: 'status', status: 429, code: 'TooManyRequests' }, 'QZ4406'],
    ['409', { kind: 'status', status: 409, code: 'ConditionalRequestConflict' }, 'QZ4406'],
    ['400 RequestTimeout', { kind: 'status', status: 400, code: 'RequestTimeout' }, 'QZ4406'],
    ['403 RequestTimeTooSkewed', { kind: 'status', status: 403, code: 'RequestTimeTooSkewed' }, 'QZ4411'],
    ['507', { kind: 'status', status: 507 }, 'QZ4414'],
    ['a reset', { kind: 'reset' }, 'QZ4405'],
    ['a reset amid the body', { kind: 'cut-request' }, 'QZ4405'],
  ])('%s before anything was made: transient, then put again', async (_name, fault, code) => {
    const { store, straight } = await stores();
    first('PUT', fault, 2);
    await expect(store.putIfAbsent('a', text('one'))).rejects.toMatchObject({ kind: 'transient', code });
    expect(await straight.get('a')).toBeNull();
    proxy.misbehave = () => ({ kind: 'pass' });
    expect(await store.putIfAbsent('a', text('one'))).toBe('created');
  });

  test('a put in doubt that lands late is still one’s own when it is put again', async () => {
    const { store, straight } = await stores();
    // Neither the put nor the look-up is answered, so nothing is known; meanwhile it landed.
    proxy.misbehave = ({ method }) => (method === 'PUT' ? { kind: 'lost' } : { kind: 'reset' });
    await expect(store.putIfAbsent('a', text('one'))).rejects.toMatchObject({ kind: 'transient' });
    proxy.misbehave = () => ({ kind: 'pass' });
    expect(await store.putIfAbsent('a', text('one'))).toBe('created');
    expect(await store.putIfAbsent('a', text('one'))).toBe('exists');
    expect(String(await straight.get('a'))).toBe('one');
  });

  test('a service that declines to replace what is still there, as while another put is under way: transient', async () => {
    const { store } = await stores();
    await store.putIfAbsent('a', text('one'));
    const info = await store.head('a');
    first('PUT', { kind: 'status', status: 412, code: 'PreconditionFailed' });
    await expect(store.putIfMatch('a', text('two'), info?.etag ?? '')).rejects.toMatchObject({
      kind: 'transient',
      code: 'QZ4409',
      message: expect.stringContaining('still what was to be put over'),
    });
    expect(await store.putIfMatch('a', text('two'), info?.etag ?? '')).toMatchObject({ key: 'a' });
  });

  test('nor does it make the probe fail, where only losers of a race are answered so', async () => {
    const { store } = await stores();
    await store.probe();
    let swaps = 0;
    proxy.misbehave = ({ method, headers }) => {
      if (method === 'PUT' && headers['if-match'] !== undefined) swaps += 1;
      // The first is the one with another etag; these two race.
      const isRace = method === 'PUT' && (swaps === 2 || swaps === 3);
      return isRace ? { kind: 'status', status: 412, code: 'PreconditionFailed' } : { kind: 'pass' };
    };
    await store.probe();
    expect(swaps).toBeGreaterThan(3);
  });

  test('what somebody else put meanwhile is theirs, with the very same bytes too', async () => {
    const { store, straight } = await stores();
    expect(await straight.putIfAbsent('a', text('one'))).toBe('created');
    first('PUT', { kind: 'status', status: 500 });
    expect(await store.putIfAbsent('a', text('one'))).toBe('exists');
  });

  test.each<[string, number, Fault, string]>([
    ['the last answer of an upload in parts is lost', 4, { kind: 'lost' }, 'created'],
    ['it fails before it is done', 4, { kind: 'status', status: 500 }, 'QZ4406'],
    ['a part fails', 2, { kind: 'status', status: 503 }, 'created'],
    ['a part is cut', 3, { kind: 'cut-request' }, 'created'],
    ['the upload is gone', 3, { kind: 'status', status: 404, code: 'NoSuchUpload' }, 'QZ4406'],
  ])(
    '%s',
    async (_name, at, fault, outcome) => {
      const { store, straight } = await stores();
      await store.probe();
      const body = [Buffer.alloc(9 << 20, 1), Buffer.alloc(8 << 20, 2)];
      let number = 0;
      proxy.misbehave = ({ method }) => {
        if (method !== 'PUT' && method !== 'POST') return { kind: 'pass' };
        number += 1;
        // POST begins the upload, three PUTs are its parts, POST ends it.
        return number === at + (at === 4 ? 1 : 0) ? fault : { kind: 'pass' };
      };
      const put = store.putIfAbsent('big', body).catch((error: { code: string }) => error.code);
      expect(await put).toBe(outcome);
      const found = await straight.get('big');
      expect(found === null ? null : found.equals(Buffer.concat(body))).toBe(outcome === 'created' ? true : null);
      const uploads = await world.raw({ method: 'GET', path: `/${bucket}`, query: { uploads: '' } });
      expect(String(uploads.body)).not.toContain('<Upload>');
      proxy.misbehave = () => ({ kind: 'pass' });
      expect(await store.putIfAbsent('big', body)).toBe(outcome === 'created' ? 'exists' : 'created');
    },
    20_000,
  );
});

describe('s3: a part of an upload', () => {
  const body = [Buffer.alloc(9 << 20, 1), Buffer.alloc(15 << 20, 2)];
  const partOf = (url: string) => new URL(url, 'http://s3').searchParams.get('partNumber');

  test('is sent again alone, over connections that break, too: no other part is, and no upload is begun anew', async () => {
    const { store, straight } = await stores();
    await store.probe();
    const faults: Fault[] = [{ kind: 'cut-request' }, { kind: 'lost' }, { kind: 'status', status: 500 }];
    proxy.misbehave = ({ url }) => (partOf(url) === '2' && faults.shift()) || { kind: 'pass' };
    const from = proxy.seen.length;
    expect(await store.putIfAbsent('big', body)).toBe('created');
    expect(faults).toEqual([]);
    const parts = proxy.seen.slice(from).filter(({ url }) => url.includes('/big?'));
    expect(parts.filter(({ url }) => url.includes('uploads')).length).toBe(1);
    const sent = parts.map(({ url }) => partOf(url)).filter((part) => part !== null);
    expect(sent.sort()).toEqual(['1', '2', '2', '2', '2', '3']);
    expect((await straight.get('big'))?.equals(Buffer.concat(body))).toBe(true);
  }, 20_000);

  test('that goes on failing ends the upload, and the next put does all of it', async () => {
    const { store, straight } = await stores();
    await store.probe();
    proxy.misbehave = ({ url }) => (partOf(url) === '2' ? { kind: 'status', status: 503 } : { kind: 'pass' });
    const from = proxy.seen.length;
    await expect(store.putIfAbsent('big', body)).rejects.toMatchObject({ kind: 'transient', code: 'QZ4406' });
    expect(proxy.seen.slice(from).filter(({ url }) => partOf(url) === '2').length).toBe(5);
    expect(await straight.get('big')).toBeNull();
    const uploads = await world.raw({ method: 'GET', path: `/${bucket}`, query: { uploads: '' } });
    expect(String(uploads.body)).not.toContain('<Upload>');
    proxy.misbehave = () => ({ kind: 'pass' });
    expect(await store.putIfAbsent('big', body)).toBe('created');
  }, 20_000);
});

describe('s3: a service that honours conditions on puts, and ignores them where an upload in parts ends', () => {
  test('gets large objects in one piece: of two that race, one wins, and keeps what it put', async () => {
    const { store, straight } = await stores();
    proxy.misbehave = ({ method, headers }) =>
      method === 'POST' && headers['if-none-match'] !== undefined ? { kind: 'unconditional' } : { kind: 'pass' };
    const bodies = [1, 2].map((value) => Buffer.alloc(17 << 20, value));
    const from = proxy.seen.length;
    const outcomes = await Promise.all(bodies.map((body) => store.putIfAbsent('big', [body])));
    expect([...outcomes].sort()).toEqual(['created', 'exists']);
    expect((await straight.get('big'))?.equals(bodies[outcomes.indexOf('created')] ?? Buffer.alloc(0))).toBe(true);
    const begun = proxy.seen.slice(from).filter(({ method, url }) => method === 'POST' && url.includes('uploads'));
    // One, to find out.
    expect(begun.map(({ url }) => url.split('?')[0]?.split('/').slice(-2).join('/'))).toEqual([probeKey]);
  }, 20_000);
});

describe('s3: reading over a bad way', () => {
  const body = randomBytes(300_000);

  test.each<[string, Fault, string]>([
    ['500', { kind: 'status', status: 500 }, 'QZ4406'],
    ['half a body', { kind: 'half' }, 'QZ4405'],
    ['a body that stops', { kind: 'drip', ms: 2000 }, 'QZ4407'],
    ['no answer', { kind: 'slow', ms: 2000 }, 'QZ4407'],
    ['a reset', { kind: 'reset' }, 'QZ4405'],
    ['a proxy’s own page', { kind: 'status', status: 502, headers: { 'content-type': 'text/html' } }, 'QZ4406'],
  ])('%s: transient, and nothing of it is served', async (_name, fault, code) => {
    const { store, straight } = await stores();
    await straight.putIfAbsent('a', [body]);
    for (const range of [undefined, { start: 0, end: 200_000 }]) {
      first('GET', fault, 2);
      await expect(store.get('a', range)).rejects.toMatchObject({ kind: 'transient', code });
      proxy.misbehave = () => ({ kind: 'pass' });
      expect((await store.get('a', range))?.equals(body.subarray(0, range?.end))).toBe(true);
    }
  });

  test('one broken connection is nobody’s news; one body damaged on its way is read again', async () => {
    const { store, straight } = await stores();
    await straight.putIfAbsent('a', [body]);
    for (const fault of [{ kind: 'reset' }, { kind: 'half' }, { kind: 'flip' }] as const) {
      first('GET', fault);
      expect((await store.get('a'))?.equals(body)).toBe(true);
    }
    first('GET', { kind: 'flip' }, 2);
    await expect(store.get('a')).rejects.toMatchObject({ kind: 'integrity', code: 'QZ3409' });
  });

  test('a listing whose page fails is no short listing', async () => {
    const { store, straight } = await stores();
    for (let n = 0; n < 5; n += 1) await straight.putIfAbsent(`l/${n}`, []);
    first('GET', { kind: 'half' }, 2);
    await expect(listed(store)).rejects.toMatchObject({ kind: 'transient' });
    first('GET', { kind: 'status', status: 503 }, 1);
    await expect(listed(store)).rejects.toMatchObject({ kind: 'transient' });
    proxy.misbehave = () => ({ kind: 'pass' });
    expect(await listed(store)).toHaveLength(5);
  });
});

describe('s3: refused at start-up', () => {
  test.each([['If-None-Match'], ['If-Match']])('a service that ignores %s', async (header) => {
    const { store } = await stores();
    await store.probe();
    proxy.misbehave = ({ method, headers }) =>
      method === 'PUT' && headers[header.toLowerCase()] !== undefined ? { kind: 'unconditional' } : { kind: 'pass' };
    await expect(store.probe()).rejects.toMatchObject({
      kind: 'configuration',
      code: 'QZ2404',
      message: expect.stringContaining(header),
    });
  });

  test.each<[string, Fault, string, string]>([
    [
      'another region',
      { kind: 'status', status: 301, code: 'PermanentRedirect', headers: { 'x-amz-bucket-region': 'eu-west-3' } },
      'QZ2415',
      'eu-west-3',
    ],
    ['a cold storage class', { kind: 'status', status: 403, code: 'InvalidObjectState' }, 'QZ2424', 'cold'],
    ['what it does not know', { kind: 'status', status: 400, code: 'InvalidArgument' }, 'QZ2422', 'InvalidArgument'],
  ])('%s', async (_name, fault, code, said) => {
    const { store } = await stores();
    proxy.misbehave = () => fault;
    await expect(store.get('a')).rejects.toMatchObject({ kind: 'configuration', code });
    await expect(store.get('a')).rejects.toThrow(said);
  });

  test('no bucket, unknown access key, wrong secret, wrong host, nobody there, not TLS', async () => {
    const url = async (change: (url: URL) => void, keys = world.root) => {
      const whole = new URL(await world.url('p', { keys }));
      change(whole);
      return whole;
    };
    const nothing = () => undefined;
    const endpoint = (value: string) => (whole: URL) => whole.searchParams.set('endpoint', value);
    const cases: [URL, string, string][] = [
      [new URL((await world.url('p')).replace(bucket, 'no-such-bucket')), 'configuration', 'QZ2414'],
      [await url(nothing, { user: 'nobody', secret: 'not-to-be-shown' }), 'configuration', 'QZ2423'],
      [await url(nothing, { user: world.root.user, secret: 'not-to-be-shown' }), 'configuration', 'QZ2423'],
      [await url(endpoint('http://no-such-host.invalid')), 'transient', 'QZ4405'],
      [await url(endpoint('http://127.0.0.1:9')), 'transient', 'QZ4405'],
      [await url(endpoint(world.endpoint.replace('http:', 'https:'))), 'configuration', 'QZ2420'],
    ];
    for (const [whole, kind, code] of cases) {
      const store = await openS3Store(whole, { deadlines });
      const failed = await store.probe().catch((error: unknown) => error);
      expect(failed).toMatchObject({ kind, code });
      expect(JSON.stringify(failed) + String((failed as Error).stack)).not.toContain('not-to-be-shown');
    }
  });
});

describe('s3: certificates', () => {
  test('are trusted from ca_file only, and refused otherwise; nothing is said to a service that shows none', async () => {
    await using tls = await S3World.start(selfSignedCertificate('lab', 30));
    const ca = join(tls.dir, 'cert.pem');
    const trusted = await openStore(await tls.url('p', { query: { ca_file: ca } }), { create: true });
    await trusted.probe();
    expect(await trusted.putIfAbsent('big', [Buffer.alloc(9 << 20, 1), Buffer.alloc(9 << 20, 2)])).toBe('created');
    expect((await trusted.get('big'))?.length).toBe(18 << 20);
    const untrusted = await openStore(await tls.url('p'), { create: true });
    const refused = {
      kind: 'configuration',
      code: 'QZ2418',
      message: expect.stringMatching(/certificate of 127.0.0.1:/),
    };
    await expect(untrusted.get('a')).rejects.toMatchObject(refused);
    await expect(untrusted.putIfAbsent('a', [])).rejects.toMatchObject(refused);
    await using old = await S3World.start(selfSignedCertificate('lab', -0.5));
    const expired = await openStore(await old.url('p', { query: { ca_file: join(old.dir, 'cert.pem') } }), {
      create: true,
    });
    await expect(expired.get('a')).rejects.toMatchObject({ code: 'QZ2418', message: expect.stringMatching(/expired/) });
    await expect(
      openStore(await tls.url('p', { query: { ca_file: '/etc/hostname' } }), { create: true }),
    ).rejects.toMatchObject({
      code: 'QZ2421',
    });
  }, 120_000);
});

describe('s3: access keys from a file', () => {
  test('are read anew when they change and when they are refused; what worked before is refused for a while only', async () => {
    const prefix = world.newPrefix();
    const [old, next] = [await world.user('shipper', prefix), await world.user('shipper', prefix)];
    const file = join(world.dir, 'rotated.credentials');
    await writeS3Credentials(file, old);
    const store = await openStore(await world.url(prefix, { query: { credentials_file: file } }), { create: true });
    expect(await store.putIfAbsent('a', text('x'))).toBe('created');
    await world.forget(old);
    await expect(store.putIfAbsent('b', text('x'))).rejects.toMatchObject({ kind: 'transient', code: 'QZ4412' });
    await writeFile(file, '[default]\naws_access_key_id = half');
    await expect(store.putIfAbsent('b', text('x'))).rejects.toMatchObject({ kind: 'transient' });
    await writeS3Credentials(file, next);
    expect(await store.putIfAbsent('b', text('x'))).toBe('created');
  });
});

describe('s3: access keys without a file', () => {
  test('come from the environment as with every AWS program, and are missed in one sentence', async () => {
    const url = new URL(await world.url(world.newPrefix()));
    url.searchParams.delete('credentials_file');
    const nowhere = {
      AWS_EC2_METADATA_DISABLED: 'true',
      AWS_SHARED_CREDENTIALS_FILE: '/none',
      AWS_CONFIG_FILE: '/none',
    };
    const keys = { AWS_ACCESS_KEY_ID: world.root.user, AWS_SECRET_ACCESS_KEY: world.root.secret };
    const before = { ...process.env };
    try {
      Object.assign(process.env, nowhere, keys);
      expect(await (await openStore(url.href, { create: true })).putIfAbsent('a', text('x'))).toBe('created');
      for (const name of Object.keys(keys)) delete process.env[name];
      const none = await openStore(url.href, { create: true });
      await expect(none.get('a')).rejects.toMatchObject({ kind: 'configuration', code: 'QZ2416' });
    } finally {
      process.env = before;
    }
  });
});

async function listed(store: ObjectStore): Promise<string[]> {
  const keys: string[] = [];
  for await (const { key } of store.list('')) keys.push(key);
  return keys;
}
