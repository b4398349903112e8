import { chmod, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { configPath, decidingArchive, loadConfig, mysqlOf, parseConfig } from '../../core/config/config.ts';
import { configExample } from '../../core/config/example.ts';
import { folderOfFileUrl, parseListen } from '../../core/config/keys.ts';
import { editDistance, nearestWord } from '../../core/config/nearest.ts';
import { parseDurationMs, parseSizeBytes } from '../../core/config/quantities.ts';
import { configSchema } from '../../core/config/schema.ts';
import { mysqlEndpointOf, readSecret } from '../../core/config/secrets.ts';
import { shapeOf } from '../../core/config/shape.ts';
import { QazynaError } from '../../core/errors/error.ts';

const file = '/etc/qazyna/config.yaml';
const good = `source:
  name: agama
  mysql: { host: db1, password_file: /etc/qazyna/mysql.password }
log:
  local: { dir: /var/lib/qazyna/log }
archives:
  onsite: { url: "file:///srv/qazyna" }
snapshots:
  scratch_dir: /var/lib/mysql-clone
`;

/** The archive is one that both hosts of a pair reach. */
const shared = good.replace('qazyna" }', 'qazyna", failure_domain: other_host }');

function problem(text: string): QazynaError {
  try {
    parseConfig(file, text);
  } catch (error) {
    if (error instanceof QazynaError) return error;
    throw error;
  }
  throw new Error('the configuration was accepted');
}

function edited(from: string | RegExp, to: string): string {
  const text = good.replace(from, to);
  expect(text).not.toBe(good);
  return text;
}

describe('a good configuration', () => {
  test('is filled up with defaults, every number with its unit', () => {
    const config = parseConfig(file, good);
    expect(config).toEqual({
      file,
      source: {
        name: 'agama',
        start: 'oldest',
        acknowledgeAfter: 'none',
        mysql: {
          host: 'db1',
          port: 3306,
          user: 'qazyna',
          passwordFile: '/etc/qazyna/mysql.password',
          tls: { mode: 'required', caFile: undefined, certFile: undefined, keyFile: undefined },
        },
      },
      log: {
        kind: 'local',
        dir: '/var/lib/qazyna/log',
        maxSizeBytes: 20 * 2 ** 30,
        stateDir: '/var/lib/qazyna/log',
      },
      archives: [
        {
          name: 'onsite',
          url: 'file:///srv/qazyna',
          place: 'file:///srv/qazyna',
          dir: '/srv/qazyna',
          failureDomain: 'same_host',
          pruneUrl: 'file:///srv/qazyna',
          encryption: null,
          retentionMs: 30 * 86_400_000,
          keep: { hourly: 0, daily: 0, weekly: 0, monthly: 0 },
        },
      ],
      snapshots: { engine: 'clone', from: 'source', everyMs: 6 * 3_600_000, scratchDir: '/var/lib/mysql-clone' },
      verify: { everyMs: 86_400_000, fullEveryMs: 2_592_000_000, maxRateBytes: null },
      drill: {
        everyMs: null,
        dir: null,
        archive: 'onsite',
        mysqldPath: null,
        assertions: [],
        rowsEveryMs: null,
        rowsMaxTableBytes: 67_108_864,
      },
      standby: null,
      influxdb: [],
      grafana: [],
      metrics: null,
      http: { host: '127.0.0.1', port: 9309 },
    });
  });

  test('keys of an encrypted archive', () => {
    const keysOf = (encryption: string) => {
      const text = edited('file:///srv/qazyna"', `file:///srv/qazyna", encryption: { ${encryption} }`);
      return parseConfig(file, text).archives[0]?.encryption;
    };
    expect(keysOf('key_file: /k/2')).toEqual({ keyFile: '/k/2', oldKeyFiles: [] });
    expect(keysOf('key_file: /k/2, old_key_files: [/k/1]')).toEqual({ keyFile: '/k/2', oldKeyFiles: ['/k/1'] });
    expect(() => keysOf('')).toThrow('`archives.onsite.encryption.key_file` is missing');
    expect(() => keysOf('key_file: k')).toThrow('must be an absolute path');
    expect(() => keysOf('key_file: /k/2, old_key_files: [k]')).toThrow('a list of at most 64 absolute paths');
  });

  test('how long an archive keeps what, and whether it locks it', () => {
    const archiveOf = (more: string, url = 'file:///srv/qazyna') =>
      parseConfig(file, edited('file:///srv/qazyna"', `${url}", ${more}`)).archives[0];
    expect(archiveOf('retention: 90d, keep: { monthly: 12 }')).toMatchObject({
      retentionMs: 90 * 86_400_000,
      keep: { hourly: 0, daily: 0, weekly: 0, monthly: 12 },
    });
    const locked = archiveOf('retention: 7d, object_lock: compliance', 's3://bucket/prod');
    expect(new URL(locked?.url ?? '').searchParams.get('object_lock')).toBe('compliance-604800s');
    expect(() => archiveOf('retention: 1m')).toThrow('at least 3600s');
    expect(() => archiveOf('keep: { daily: -1 }')).toThrow('a whole number from 0');
    expect(() => archiveOf('object_lock: compliance')).toThrow('is for s3:// archives');
    expect(() => archiveOf('object_lock: governance, checksums: when_required', 's3://bucket/prod')).toThrow(
      'no checksums',
    );
  });

  test('a Kafka log and an archive in S3: all that opens the archive stands in its URL', () => {
    const kafka =
      'kafka: { brokers: ["k1:9093", "[::1]:9093"], topic: qazyna.agama, tls: {}, sasl: { user: q, password_file: /k } }';
    const s3 =
      's3: { url: "s3://agama-backups/prod/", endpoint: "https://s3.example.org:9000", path_style: true, region: eu-1, credentials_file: "/etc/a&b" }';
    const text = edited(/local: .*/, kafka).replace('archives:\n', `archives:\n  ${s3}\n`);
    const config = parseConfig(file, text);
    expect(config.log).toEqual({
      kind: 'kafka',
      brokers: ['k1:9093', '[::1]:9093'],
      topic: 'qazyna.agama',
      stateDir: '/var/lib/qazyna',
      replicationFactor: null,
      retentionMs: 7 * 86_400_000,
      tls: {},
      sasl: { mechanism: 'scram-sha-512', user: 'q', passwordFile: '/k' },
    });
    const [archive] = config.archives;
    expect(archive).toMatchObject({
      name: 's3',
      place: 's3://agama-backups/prod/',
      dir: null,
      failureDomain: 'other_host',
      pruneUrl: null,
    });
    const url = new URL(archive?.url ?? '');
    expect([url.host, url.pathname]).toEqual(['agama-backups', '/prod/']);
    expect(Object.fromEntries(url.searchParams)).toEqual({
      endpoint: 'https://s3.example.org:9000',
      region: 'eu-1',
      path_style: 'true',
      credentials_file: '/etc/a&b',
    });
  });

  test('commits may wait for a Kafka log', () => {
    const text = edited('name: agama', 'name: agama\n  acknowledge_after: log');
    const config = parseConfig(file, text.replace(/local: .*/, 'kafka: { brokers: ["k:9092"], topic: t }'));
    expect(config.source.acknowledgeAfter).toBe('log');
  });

  test('commits may wait for an archive that outlives this host; a pair then meets in it', () => {
    const two = shared.replace('archives:', 'archives:\n  far: { url: "s3://bucket/prod" }');
    const config = (acknowledgeAfter: string) =>
      parseConfig(
        file,
        `${two.replace('name: agama', `name: agama\n  acknowledge_after: ${acknowledgeAfter}`)}standby: { dir: /s }\n`,
      );
    for (const [after, decides] of [
      ['onsite', 'onsite'],
      ['far', 'far'],
      ['none', 'far'],
    ] as const) {
      const { standby } = config(after);
      expect([after, decidingArchive(config(after)), standby?.archive]).toEqual([after, decides, decides]);
    }
    expect(decidingArchive(parseConfig(file, shared))).toBeNull();
  });

  test('a standby: its folder is enough', () => {
    const { standby, archives } = parseConfig(file, `${shared}standby: { dir: /var/lib/qazyna/standby }\n`);
    expect(standby).toEqual({
      dir: '/var/lib/qazyna/standby',
      bind: { host: '127.0.0.1', port: 3306 },
      advertise: { host: '127.0.0.1', port: 3306 },
      runBy: 'qazyna',
      mysqldPath: null,
      osUser: null,
      serverOptions: {},
      archive: archives[0]?.name,
      listen: { host: '127.0.0.1', port: 3310 },
      replicaUser: 'qazyna_replica',
      replicaPasswordFile: null,
      failover: {
        automatic: false,
        afterMs: 2000,
        drainDeadlineMs: 30_000,
        notAgainWithinMs: 3_600_000,
        fence: null,
        hooks: [],
      },
    });
  });

  test('a standby of an archive that is not there is refused', () => {
    const text = `${good}standby: { dir: /var/lib/qazyna/standby, archive: nowhere }\n`;
    expect(() => parseConfig(file, text)).toThrow(/names nowhere, which is no archive of this file/);
  });

  test('its server cannot be given a server_id, or anything else that it is promised by', () => {
    const parse = (options: string) =>
      parseConfig(file, `${shared}standby: { dir: /s, server_options: { ${options} } }\n`);
    expect(parse('innodb-buffer-pool-size: 8G, port-open-timeout: 3').standby?.serverOptions).toEqual({
      'innodb-buffer-pool-size': '8G',
      'port-open-timeout': 3,
    });
    for (const option of [
      'server-id: 7',
      'server_id: 7',
      'skip-log-bin: true',
      'loose_rpl_semi_sync_source_enabled: false',
    ])
      expect(() => parse(option)).toThrow(/must be left out: qazyna sets it itself/);
  });

  test('hooks that would be told to point at every address are refused; advertise says where to', () => {
    const hooks = 'failover: { hooks: [["/bin/true"]] }';
    const bound = `${shared}standby: { dir: /s, bind: "0.0.0.0:3306", ${hooks}`;
    expect(() => parseConfig(file, `${bound} }\n`)).toThrow(/point at every address/);
    const { standby } = parseConfig(file, `${bound}, advertise: "192.0.2.2:3307" }\n`);
    expect(standby?.advertise).toEqual({ host: '192.0.2.2', port: 3307 });
  });

  test('may be JSON, which is YAML', () => {
    const json = JSON.stringify({
      source: { name: 'a', mysql: {} },
      log: { local: { dir: '/log' } },
      archives: { one: { url: 'file:///a%20b' } },
      snapshots: { engine: 'logical' },
    });
    expect(parseConfig(file, json).archives[0]?.dir).toBe('/a b');
  });
});

describe('services beside MySQL', () => {
  const services = (text: string) => parseConfig(file, `${good}${text}`);

  test('an InfluxDB: its name and address are enough', () => {
    expect(services('influxdb: [{ name: syslog, url: "http://127.0.0.1:8086" }]\n').influxdb).toEqual([
      {
        kind: 'influxdb',
        name: 'syslog',
        url: 'http://127.0.0.1:8086',
        databases: null,
        user: null,
        passwordFile: null,
        listen: { host: '127.0.0.1', port: 8087 },
        advertise: 'http://127.0.0.1:8087',
        checkEveryMs: 5000,
        snapshotsEveryMs: 3_600_000,
      },
    ]);
  });

  test('a Grafana: its name, address and token are enough; further organizations have tokens of their own', () => {
    const text = 'grafana: [{ name: main, url: "http://127.0.0.1:3000", token_file: /t/1 }]\n';
    const known = { kind: 'grafana', name: 'main', url: 'http://127.0.0.1:3000' };
    const often = { checkEveryMs: 10_000, snapshotsEveryMs: 86_400_000 };
    expect(services(text).grafana).toEqual([{ ...known, tokenFiles: ['/t/1'], ...often }]);
    const more = text.replace('/t/1', '/t/1, more_token_files: [/t/2]');
    expect(services(more).grafana[0]?.tokenFiles).toEqual(['/t/1', '/t/2']);
    expect(problem(`${good}${text.replace(', token_file: /t/1', '')}`).message).toMatch(
      /`grafana\.0\.token_file` is missing/,
    );
  });

  test('without MySQL: only they are protected', () => {
    const text = good.replace(/ {2}mysql:.*\n/, '').replace(/snapshots:\n.*\n/, '');
    const config = parseConfig(file, `${text}influxdb: [{ name: syslog, url: "http://127.0.0.1:8086" }]\n`);
    expect([config.source.mysql, config.snapshots.scratchDir]).toEqual([null, null]);
    expect(() => mysqlOf(config)).toThrow(/names no MySQL server/);
  });

  test('two of one name, and a topic that leaves no room for theirs, are refused', () => {
    const two = 'influxdb: [{ name: a, url: "http://h:1" }, { name: a, url: "http://h:2" }]\n';
    expect(problem(`${good}${two}`).message).toMatch(/`influxdb` has two entries called a/);
    const topic = 'x'.repeat(240);
    const kafka = good.replace(/local:.*/, `kafka: { brokers: ["k:9092"], topic: ${topic} }`);
    expect(problem(`${kafka}influxdb: [{ name: a, url: "http://h:1" }]\n`).message).toMatch(/topic.*too long/);
    expect(parseConfig(file, kafka).log).toMatchObject({ topic });
  });

  test('a wrong key inside a list is named with its place', () => {
    const { message, hint } = problem(`${good}influxdb:\n  - { name: a, url: "http://h:1", databses: [x] }\n`);
    expect(message).toMatch(/Unknown key `influxdb\.0\.databses` \(line 11/);
    expect(hint).toMatch(/Did you mean databases/);
  });
});

describe('the example', () => {
  const example = configExample();

  test('is a valid configuration', () => {
    expect(parseConfig(file, example).archives.map(({ name }) => name)).toEqual(['onsite', 'offsite']);
  });

  test('stays valid with its commented keys switched on', () => {
    const all = example.replace(/^(\s*)# ([a-z_]+: \S+)$/gm, '$1$2');
    expect(all).not.toBe(example);
    expect(parseConfig(file, all).source.mysql?.tls.caFile).toBe('/etc/qazyna/mysql-ca.pem');
  });

  test('shows every key of the schema, with a comment', () => {
    const keys: string[] = [];
    const walk = (schema: Parameters<typeof shapeOf>[0]) => {
      for (const [name, child] of Object.entries(shapeOf(schema) ?? {})) {
        keys.push(name);
        expect([name, child.meta()?.description]).toEqual([name, expect.any(String)]);
        walk(child);
      }
    };
    walk(configSchema);
    expect(keys.length).toBeGreaterThan(20);
    for (const key of keys) expect(example).toMatch(new RegExp(`^\\s*(#\\s+)*${key}:`, 'm'));
  });
});

describe('a wrong configuration is answered with one sentence, its place and a hint', () => {
  test.each([
    [
      'an unknown key',
      edited('host: db1', 'hots: db1'),
      'QZ2013',
      /`source\.mysql\.hots` \(line 3, column 12 of/,
      /Did you mean host\?/,
    ],
    [
      'an unknown key at the top',
      `${good}htpp: {}\n`,
      'QZ2013',
      /`htpp` \(line 10, column 1/,
      /Did you mean http\?.*source, log/,
    ],
    ['a key nobody meant', `${good}zzzzzzz: {}\n`, 'QZ2013', /zzzzzzz/, /^Known at the top/],
    [
      'a missing key',
      edited('  name: agama\n', ''),
      'QZ2014',
      /`source\.name` is missing \(line 2, column 3/,
      /Give a name/,
    ],
    ['a missing section', edited(/archives:\n.*\n/, ''), 'QZ2014', /`archives` is missing/, /mapping/],
    ['nothing to protect', edited(/ {2}mysql:.*\n/, ''), 'QZ2019', /`source\.mysql` is missing/, /MySQL/],
    [
      'a number instead of text',
      edited('name: agama', 'name: 5'),
      'QZ2015',
      /`source\.name` must be a name.*\(line 2, column 9/,
      /It is a number now/,
    ],
    [
      'a list instead of a mapping',
      edited(/ {2}onsite:.*/, '  - x'),
      'QZ2015',
      /`archives` must be a mapping/,
      /It is a list now/,
    ],
    [
      'text instead of a port',
      edited('host: db1', 'port: "3306"'),
      'QZ2015',
      /`source\.mysql\.port` must be a port number/,
      /another text/,
    ],
    ['a port too high', edited('host: db1', 'port: 65536'), 'QZ2015', /port number from 1 to 65535/, /a number/],
    [
      'dumps of a standby',
      edited('snapshots:', 'snapshots:\n  engine: logical\n  from: standby'),
      'QZ2019',
      /`snapshots\.from: standby` takes clones only/,
      /from: source/,
    ],
    [
      'a duration without unit',
      edited('snapshots:', 'snapshots:\n  every: 21600'),
      'QZ2015',
      /`snapshots\.every` must be a duration with its unit/,
      /a number/,
    ],
    [
      'a duration too short',
      edited('snapshots:', 'snapshots:\n  every: 59s'),
      'QZ2015',
      /at least 60s/,
      /another text/,
    ],
    [
      'a size that is none',
      edited('/var/lib/qazyna/log }', '/var/lib/qazyna/log, max_size: 20G }'),
      'QZ2015',
      /`log\.local\.max_size` must be a size/,
      /another text/,
    ],
    [
      'a relative path',
      edited('/var/lib/qazyna/log', 'log'),
      'QZ2015',
      /`log\.local\.dir` must be an absolute path/,
      /another text/,
    ],
    [
      'a URL of nothing',
      edited('file:///srv/qazyna', 'file://host/srv'),
      'QZ2015',
      /`archives\.onsite\.url` must be a URL such as file:/,
      /another text/,
    ],
    [
      'an archive name with a slash',
      edited('onsite:', 'a/b:'),
      'QZ2015',
      /`archives\.a\/b` must be an archive name/,
      /./,
    ],
    [
      'a word that is not one of those known',
      edited('snapshots:', 'snapshots:\n  engine: cloned'),
      'QZ2015',
      /must be one of clone, logical/,
      /another text/,
    ],
    [
      'a source name that is a path',
      edited('name: agama', 'name: ../agama'),
      'QZ2015',
      /`source\.name`/,
      /another text/,
    ],
    [
      'a listen address without port',
      `${good}http: { listen: 127.0.0.1 }\n`,
      'QZ2015',
      /`http\.listen` must be an address and port/,
      /another text/,
    ],
    ['an empty file', '', 'QZ2015', /The configuration must be a mapping/, /It is empty now/],
    ['no YAML', 'a: [', 'QZ2012', /is no valid YAML at line 1, column 5/, /config example/],
    ['a key written twice', `${good}log: {}\n`, 'QZ2012', /line 10, column 1: Map keys must be unique/, /./],
    [
      'a bomb of aliases',
      `a: &a [x,x,x,x,x,x,x,x,x,x]\nb: &b [${'*a,'.repeat(99)}*a]\nc: [${'*b,'.repeat(99)}*b]\n`,
      'QZ2012',
      /no valid YAML/,
      /aliases/,
    ],
    ['a file of 2 MiB', '#'.repeat(2 ** 21), 'QZ2012', /longer than 1 MiB/, /./],
    [
      'clone without a scratch folder',
      edited('scratch_dir: /var/lib/mysql-clone', 'engine: clone'),
      'QZ2019',
      /`snapshots\.scratch_dir` is missing/,
      /engine: logical/,
    ],
    [
      'a scratch folder inside an archive',
      edited('/var/lib/mysql-clone', '/srv/qazyna/x'),
      'QZ2019',
      /`snapshots\.scratch_dir` and `archives\.onsite\.url`/,
      /folder of its own/,
    ],
    [
      'two archives in one folder',
      edited('archives:', 'archives:\n  other: { url: "file:///srv/qazyna/" }'),
      'QZ2019',
      /same folder/,
      /./,
    ],
    [
      'a log around an archive',
      edited('/var/lib/qazyna/log', '/srv'),
      'QZ2019',
      /`archives\.onsite\.url` and `log\.local\.dir`/,
      /./,
    ],
    [
      'a bucket name that cannot be',
      edited('file:///srv/qazyna', 's3://Bucket/prod'),
      'QZ2015',
      /`archives\.onsite\.url` must be a URL such as/,
      /another text/,
    ],
    [
      'credentials in an endpoint',
      edited('file:///srv/qazyna"', 's3://bucket/prod", endpoint: "https://key:secret@s3.example.org"'),
      'QZ2015',
      /`archives\.onsite\.endpoint` must be a URL such as .*without path and credentials/,
      /another text/,
    ],
    [
      'a key of S3 at a folder',
      edited('file:///srv/qazyna"', 'file:///srv/qazyna", region: eu-north-1'),
      'QZ2019',
      /`archives\.onsite\.region` is for s3:\/\/ archives, and onsite is a folder/,
      /Remove it/,
    ],
    ['no log', edited(/local: .*/, '{}'), 'QZ2014', /`log\.local` or `log\.kafka` is missing/, /files on this host/],
    [
      'two logs',
      edited(/log:\n/, 'log:\n  kafka: { brokers: ["k:9092"], topic: t }\n'),
      'QZ2019',
      /`log` has both local and kafka/,
      /Keep one/,
    ],
    [
      'a broker without a port',
      edited(/local: .*/, 'kafka: { brokers: [k1], topic: t }'),
      'QZ2015',
      /`log\.kafka\.brokers\.0` must be a host and port such as/,
      /another text/,
    ],
    ['no archive', edited(/ {2}onsite:.*/, '  {}'), 'QZ2019', /no archive/, /at least one/],
    ['an archive called log', edited('onsite:', 'log:'), 'QZ2019', /cannot be called log/, /another name/],
    [
      'RPO 0 by a local log',
      edited('name: agama', 'name: agama\n  acknowledge_after: log'),
      'QZ2019',
      /dies with this host/,
      /failure_domain/,
    ],
    [
      'RPO 0 by a folder of this host',
      edited('name: agama', 'name: agama\n  acknowledge_after: onsite'),
      'QZ2019',
      /on this very host/,
      /other_host/,
    ],
    [
      'RPO 0 by nothing',
      edited('name: agama', 'name: agama\n  acknowledge_after: offsite'),
      'QZ2019',
      /no archive of this file/,
      /onsite/,
    ],
    [
      'RPO 0 by an archive although there is a topic',
      edited('name: agama', 'name: agama\n  acknowledge_after: onsite').replace(
        /local: .*/,
        'kafka: { brokers: ["k:9092"], topic: t }',
      ),
      'QZ2019',
      /the topic is where commits wait/,
      /Set log/,
    ],
    [
      'a pair that would meet on one of its hosts',
      `${good}standby: { dir: /var/lib/qazyna/standby }\n`,
      'QZ2019',
      /meets in the archive onsite, a folder on this very host/,
      /other_host/,
    ],
  ])('%s', (_, text, code, sentence, hint) => {
    const error = problem(text);
    expect([error.code, error.message, error.hint]).toEqual([
      code,
      expect.stringMatching(sentence),
      expect.stringMatching(hint),
    ]);
    expect([error.kind, error.exitCode]).toEqual(['configuration', 2]);
    expect(error.message).toContain(file);
    expect(error.message.split('\n')).toHaveLength(1);
  });

  test('a directory name that only begins like another is another folder', () => {
    expect(parseConfig(file, edited('/var/lib/mysql-clone', '/srv/qazyna2')).snapshots.scratchDir).toBe('/srv/qazyna2');
  });

  test('every complaint is kept, the first one speaks', () => {
    const error = problem(edited('host: db1', 'port: x, hots: y'));
    expect(error.hint).toContain('(1 more in this file');
    expect(error.details.problems).toHaveLength(2);
  });

  test('a value is never repeated: it may be a secret in the wrong place', () => {
    const error = problem(
      edited('host: db1', 'host: "hunter2 hunter2", port: "hunter2", password: hunter2, password_file: hunter2'),
    );
    expect(JSON.stringify([error.message, error.hint, error.details])).not.toContain('hunter2');
  });
});

describe('quantities', () => {
  test.each([
    ['10ms', 10],
    ['30s', 30_000],
    ['1.5h', 5_400_000],
    ['30d', 2_592_000_000],
    ['500us', 0.5],
    ['6', null],
    ['', null],
    ['-1s', null],
    ['6H', null],
    ['6 hours', null],
    ['1e3s', null],
    ['9999999999999d', null],
  ])('duration %s', (text, expected) => {
    expect(parseDurationMs(text)).toBe(expected);
  });

  test.each([
    ['20GiB', 21_474_836_480],
    ['512KiB', 524_288],
    ['1.5MiB', 1_572_864],
    ['10MB', 10_000_000],
    ['7 B', 7],
    ['0.3B', null],
    ['20', null],
    ['20G', null],
    ['99999999TiB', null],
    ['constructor', null],
  ])('size %s', (text, expected) => {
    expect(parseSizeBytes(text)).toBe(expected);
  });

  test.each([
    ['127.0.0.1:9309', { host: '127.0.0.1', port: 9309 }],
    ['[::1]:0', { host: '::1', port: 0 }],
    ['localhost:80', { host: 'localhost', port: 80 }],
    ['9309', null],
    ['::1:9309', null],
    ['x:99999', null],
  ])('listen %s', (text, expected) => {
    expect(parseListen(text)).toEqual(expected);
  });

  test.each([
    ['file:///srv/a', '/srv/a'],
    ['file:///srv/a%20b', '/srv/a b'],
    ['file:///', null],
    ['file://host/srv', null],
    ['file:///srv?x=1', null],
    ['/srv', null],
    ['file:///a%00b', null],
    ['file:///a%2fb', null],
  ])('URL %s', (url, expected) => {
    expect(folderOfFileUrl(url)).toBe(expected);
  });
});

describe('the nearest word', () => {
  test('is found for slips and not for other words', () => {
    expect(editDistance('hots', 'host')).toBe(1);
    expect(editDistance('', 'abc')).toBe(3);
    expect(nearestWord('snapshot', ['source', 'snapshots', 'http'])).toBe('snapshots');
    expect(nearestWord('restroe', ['restore', 'run'])).toBe('restore');
    expect(nearestWord('frobnicate', ['restore', 'run'])).toBeNull();
    expect(nearestWord('x', ['tls'])).toBeNull();
  });
});

describe('files', () => {
  let folder = '';
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'qazyna-config-'));
  });
  afterAll(async () => {
    await rm(folder, { recursive: true });
  });

  test('the configuration comes from the flag, else the environment, else /etc; never the working folder', () => {
    expect(configPath('/a.yaml', { QAZYNA_CONFIG: '/b.yaml' })).toBe('/a.yaml');
    expect(configPath(undefined, { QAZYNA_CONFIG: '/b.yaml' })).toBe('/b.yaml');
    expect(configPath(undefined, { QAZYNA_CONFIG: '' })).toBe('/etc/qazyna/config.yaml');
    expect(configPath(undefined, {})).toBe('/etc/qazyna/config.yaml');
  });

  test('a missing or unreadable configuration', async () => {
    await expect(loadConfig(join(folder, 'none.yaml'))).rejects.toMatchObject({ code: 'QZ2010', exitCode: 2 });
    await expect(loadConfig(folder)).rejects.toMatchObject({ code: 'QZ2011', exitCode: 2 });
    const path = join(folder, 'good.yaml');
    await writeFile(path, good);
    expect((await loadConfig(path)).file).toBe(path);
  });

  test('a secret loses its line end; one that all may read is told of', async () => {
    const path = join(folder, 'secret');
    await writeFile(path, 'pass word \n', { mode: 0o600 });
    const warnings: string[] = [];
    const options = { warn: (sentence: string) => warnings.push(sentence), environment: {} };
    expect(await readSecret(path, options)).toBe('pass word ');
    expect(warnings).toEqual([]);
    await chmod(path, 0o644);
    await readSecret(path, options);
    expect(warnings).toEqual([expect.stringContaining(path)]);
    expect(warnings.join()).not.toContain('pass word');
  });

  test('a systemd credential of the same name is preferred', async () => {
    const path = join(folder, 'elsewhere', 'mysql.password');
    await writeFile(join(folder, 'mysql.password'), 'from systemd\n');
    expect(await readSecret(path, { environment: { CREDENTIALS_DIRECTORY: folder } })).toBe('from systemd');
    await expect(readSecret(path, { environment: {} })).rejects.toMatchObject({ code: 'QZ2017' });
  });

  test('an empty credential is one that was not given', async () => {
    const path = join(folder, 'elsewhere.password');
    const credentials = await mkdtemp(join(folder, 'credentials-'));
    await writeFile(path, 'the file itself\n', { mode: 0o600 });
    await writeFile(join(credentials, 'elsewhere.password'), '\n');
    expect(await readSecret(path, { environment: { CREDENTIALS_DIRECTORY: credentials } })).toBe('the file itself');
  });

  test('an unreadable, empty or many-lined secret is refused without its text', async () => {
    const path = join(folder, 'bad');
    await expect(readSecret(folder, { environment: {} })).rejects.toMatchObject({ code: 'QZ2017', exitCode: 2 });
    for (const text of ['', '\n', 'one\ntwo\n', 'nul\0', 'two\n\n']) {
      await writeFile(path, text);
      await expect(readSecret(path, { environment: {} })).rejects.toMatchObject({
        code: 'QZ2018',
        message: `The secret file ${path} does not hold exactly one line of text.`,
      });
    }
    await writeFile(path, 'x'.repeat(70_000));
    await expect(readSecret(path, { environment: {} })).rejects.toMatchObject({ code: 'QZ2017' });
  });

  test('an endpoint carries the password just read, or none', async () => {
    const path = join(folder, 'password');
    await writeFile(path, 'p\n', { mode: 0o600 });
    const mysql = { host: 'h', port: 1, user: 'u', passwordFile: path, tls: { mode: 'required' as const } };
    expect(await mysqlEndpointOf(mysql, { environment: {} })).toMatchObject({ host: 'h', password: 'p' });
    expect(await mysqlEndpointOf({ ...mysql, passwordFile: null })).toMatchObject({ password: '' });
  });
});
