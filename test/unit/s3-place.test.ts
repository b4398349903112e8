/** What an s3:// URL says, what is refused in one, and the files it names. */
import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { openS3Store } from '../../core/archive/s3.ts';
import { CredentialsFile } from '../../core/archive/s3-credentials.ts';
import { failureOf, S3Failure, s3Error } from '../../core/archive/s3-errors.ts';
import { isPrivateWay, parseS3Place } from '../../core/archive/s3-place.ts';

const place = (url: string) => parseS3Place(new URL(url));
const local = 'endpoint=http%3A%2F%2F127.0.0.1%3A9000';

describe('s3:// URLs', () => {
  test('a bucket alone is one of AWS', () => {
    expect(place('s3://agama-backups')).toEqual({
      bucket: 'agama-backups',
      prefix: '',
      endpoint: null,
      region: null,
      pathStyle: false,
      checksums: 'when_supported',
      credentialsFile: null,
      caFile: null,
      lock: null,
      name: 's3://agama-backups',
    });
  });

  test('everything of another service stands in the query; names show bucket, prefix and host only', () => {
    const query = `${local}&region=eu-1&path_style=false&checksums=when_required&credentials_file=/c&ca_file=/a`;
    const found = place(`s3://b.1/some/prefix/?${query}`);
    expect(found).toMatchObject({ bucket: 'b.1', prefix: 'some/prefix/', region: 'eu-1', pathStyle: false });
    expect(found).toMatchObject({ checksums: 'when_required', credentialsFile: '/c', caFile: '/a' });
    expect(place('s3://bucket?object_lock=governance-60s').lock).toEqual({ mode: 'governance', forMs: 60_000 });
    expect(found.endpoint?.origin).toBe('http://127.0.0.1:9000');
    expect(found.name).toBe('s3://b.1/some/prefix at 127.0.0.1:9000');
  });

  test('buckets stand in the path of every endpoint but AWS, unless said otherwise', () => {
    expect(place(`s3://bucket?${local}`).pathStyle).toBe(true);
    expect(place('s3://bucket?endpoint=https://s3.eu-north-1.amazonaws.com').pathStyle).toBe(false);
    expect(place('s3://bucket?path_style=true').pathStyle).toBe(true);
  });

  test.each([
    ['s3:///prefix', /no bucket/],
    ['s3://a', /no bucket name/],
    ['s3://user:hidden@bucket/p', /credentials do not belong/],
    ['s3://bucket:9000/p', /port/],
    ['s3://bucket/p#x', /#/],
    ['s3://bucket/a/.b', /prefix/],
    ['s3://bucket/a%20b', /prefix/],
    [`s3://bucket/${'x'.repeat(401)}`, /longer/],
    ['s3://bucket?endpoint=s3.example.org', /endpoint/],
    ['s3://bucket?endpoint=ftp://x', /endpoint/],
    ['s3://bucket?endpoint=https://u:hidden@x', /endpoint holds credentials/],
    ['s3://bucket?endpoint=https://x/path', /endpoint has more/],
    ['s3://bucket?region=EU%20North', /region/],
    ['s3://bucket?region=a&region=b', /twice/],
    ['s3://bucket?path_style=yes', /path_style must be true or false/],
    ['s3://bucket?checksums=never', /checksums must be/],
    ['s3://bucket?object_lock=compliance', /object_lock must be/],
    ['s3://bucket?credentials_file=keys', /absolute/],
    ['s3://bucket?secret_access_key=hidden', /unknown part "secret_access_key"/],
  ])('%s is refused', (url, why) => {
    const refused = () => place(url);
    expect(refused).toThrow(why);
    expect(refused).not.toThrow(/hidden/);
    expect(refused).toThrow(expect.objectContaining({ kind: 'configuration', code: 'QZ2407' }));
  });

  test('what leaves the host unencrypted is warned of', async () => {
    const ways = ['http://127.0.0.1:1', 'http://[::1]:1', 'http://localhost:1', 'https://s3.example.org'];
    for (const way of ways) expect(isPrivateWay(new URL(way))).toBe(true);
    for (const way of ['http://s3.example.org', 'http://10.0.0.1', 'http://1270.0.0.1.example.org']) {
      expect(isPrivateWay(new URL(way))).toBe(false);
    }
    const warnings: string[] = [];
    const warn = (sentence: string) => warnings.push(sentence);
    await openS3Store(new URL('s3://bucket?endpoint=http%3A%2F%2Fs3.example.org'), { warn });
    expect(warnings).toEqual([expect.stringContaining('can be read on its way')]);
  });
});

describe('credentials files', () => {
  const within = async (work: (file: string, warnings: string[], keys: CredentialsFile) => Promise<void>) => {
    const folder = await mkdtemp(join(tmpdir(), 'qazyna-keys-'));
    const warnings: string[] = [];
    const file = join(folder, 'keys');
    await work(file, warnings, new CredentialsFile(file, (sentence) => warnings.push(sentence))).finally(() =>
      rm(folder, { recursive: true }),
    );
  };
  const text = (id: string) =>
    `# keys\r\n[other]\naws_access_key_id=no\n[default]\naws_access_key_id = ${id}\nAWS_SECRET_ACCESS_KEY=a=b/c+d\nregion = x\n[last]\naws_secret_access_key=no\n`;

  test('the section default counts; everybody’s file is warned of, once', () =>
    within(async (file, warnings, keys) => {
      await writeFile(file, `${text('one').replace('region', 'aws_session_token')}`, { mode: 0o600 });
      expect(await keys.keys()).toEqual({ accessKeyId: 'one', secretAccessKey: 'a=b/c+d', sessionToken: 'x' });
      expect(warnings).toEqual([]);
      await chmod(file, 0o644);
      await writeFile(file, text('two'));
      expect(await keys.haveChanged(await keys.keys())).toBe(true);
      expect(await keys.haveChanged(await keys.keys())).toBe(false);
      expect(warnings).toEqual([expect.stringContaining('chmod 600')]);
    }));

  test('unreadable, empty and foreign files are refused by name, without a word of what is in them', () =>
    within(async (file, _warnings, keys) => {
      const refused = { kind: 'configuration', code: 'QZ2419', message: expect.stringContaining(file) };
      await expect(keys.keys()).rejects.toMatchObject(refused);
      for (const wrong of [
        '',
        '[other]\naws_access_key_id = a\naws_secret_access_key = hidden\n',
        'hidden',
        '{"a":1}',
      ]) {
        await writeFile(file, wrong);
        await expect(keys.keys()).rejects.toMatchObject(refused);
        await expect(keys.keys()).rejects.not.toThrow(/hidden/);
      }
      await expect(new CredentialsFile(tmpdir(), () => undefined).keys()).rejects.toMatchObject({ code: 'QZ2419' });
    }));

  test('a systemd credential of the same name is preferred, unless it is empty', () =>
    within(async (file) => {
      const credentials = await mkdtemp(join(tmpdir(), 'qazyna-credentials-'));
      try {
        await writeFile(file, text('file'), { mode: 0o600 });
        const keys = async () =>
          (await new CredentialsFile(file, () => undefined, { CREDENTIALS_DIRECTORY: credentials }).keys()).accessKeyId;
        expect(await keys()).toBe('file');
        await writeFile(join(credentials, 'keys'), text('systemd'), { mode: 0o600 });
        expect(await keys()).toBe('systemd');
        await writeFile(join(credentials, 'keys'), '\n');
        expect(await keys()).toBe('file');
      } finally {
        await rm(credentials, { recursive: true });
      }
    }));

  test('keys that were read stay while the file is written anew', () =>
    within(async (file, warnings, keys) => {
      await writeFile(file, text('one'), { mode: 0o600 });
      const first = await keys.keys();
      await writeFile(file, '[default]\naws_acc');
      expect(await keys.haveChanged(first)).toBe(false);
      expect(await keys.keys()).toEqual(first);
      expect(warnings).toEqual([expect.stringContaining('keys read before are still used')]);
    }));
});

describe('failures of S3 requests', () => {
  const request = { place: place('s3://bucket/p'), action: 's3:PutObject', key: 'k', workedBefore: false } as const;
  test.each<[string, number, string, boolean]>([
    ['AccessDenied', 403, 'QZ2417', true],
    ['InvalidAccessKeyId', 403, 'QZ2423', true],
    ['ExpiredToken', 400, 'QZ4412', true],
    ['CredentialsProviderError', 0, 'QZ2416', true],
    ['NoSuchBucket', 404, 'QZ2414', true],
    ['PermanentRedirect', 301, 'QZ2415', true],
    ['AuthorizationHeaderMalformed', 400, 'QZ2415', true],
    ['RequestTimeTooSkewed', 403, 'QZ4411', false],
    ['ENOTFOUND', 0, 'QZ4405', true],
    ['ECONNREFUSED', 0, 'QZ4405', true],
    ['ECONNRESET', 0, 'QZ4405', false],
    ['ETIMEDOUT', 0, 'QZ4405', false],
    ['Deadline', 0, 'QZ4407', false],
    ['InternalError', 500, 'QZ4406', false],
    ['HTTP 200', 200, 'QZ4406', false],
    ['CERT_HAS_EXPIRED', 0, 'QZ2418', true],
    ['ERR_TLS_CERT_ALTNAME_INVALID', 0, 'QZ2418', true],
    ['MethodNotAllowed', 405, 'QZ2422', true],
    ['NotImplemented', 501, 'QZ2422', true],
  ])('%s (%d) is %s, and certain: %s', (code, status, expected, isCertain) => {
    const failure = new S3Failure(code, status, 'words');
    expect(failure.isCertain).toBe(isCertain);
    expect(s3Error(failure, request)).toMatchObject({ code: expected });
  });

  test('what was allowed before passes when it is refused', () => {
    for (const code of ['AccessDenied', 'InvalidAccessKeyId', 'SignatureDoesNotMatch']) {
      expect(s3Error(new S3Failure(code, 403, ''), { ...request, workedBefore: true }).kind).toBe('transient');
    }
  });

  test('a put with a lock that is refused without a word is refused for its lock', () => {
    const locking = { ...request, place: place('s3://bucket/p?object_lock=compliance-60s') };
    for (const words of ['UnknownError', 'Invalid Request', ''])
      expect(s3Error(new S3Failure('InvalidRequest', 400, words), locking).code).toBe('QZ2440');
    expect(s3Error(new S3Failure('InvalidRequest', 400, 'The metadata is too long'), locking).code).toBe('QZ2422');
    expect(s3Error(new S3Failure('InvalidRequest', 400, 'UnknownError'), request).code).toBe('QZ2422');
  });

  test('a reset that the SDK calls a time-out is a reset', () => {
    const reset = Object.assign(new Error('read ECONNRESET'), { code: 'ECONNRESET', name: 'TimeoutError' });
    expect(failureOf(reset, false)).toMatchObject({ code: 'ECONNRESET', isCertain: false });
    expect(failureOf(Object.assign(new Error('x'), { name: 'TimeoutError' }), false).isCertain).toBe(true);
  });
});
