import { describe, expect, test } from '@jest/globals';
import { decidingArchive, mysqlOf, parseConfig } from '../../core/config/config.ts';
import { configExample } from '../../core/config/example.ts';
import { configSchema } from '../../core/config/schema.ts';
import { shapeOf } from '../../core/config/shape.ts';
import { edited, file, good, problem, shared } from '../made/config.ts';

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

  test.each(['https://host/grafana', 'https://host/grafana/', 'https://HOST:443/grafana//'])(
    'a Grafana under a path: %s',
    (url) => {
      const [known] = services(`grafana: [{ name: main, url: "${url}", token_file: /t/1 }]\n`).grafana;
      expect([known?.name, known?.url]).toEqual(['main', 'https://host/grafana']);
    },
  );

  test.each(['https://host/grafana?orgId=1', 'https://host/#d', 'https://me:secret@host/grafana', 'host/grafana'])(
    'what leads to no Grafana is refused: %s',
    (url) => {
      const { message } = problem(`${good}grafana: [{ name: main, url: "${url}", token_file: /t/1 }]\n`);
      expect(message).toMatch(/`grafana\.0\.url` must be a URL .*, without query and credentials/);
      expect(message).not.toContain('secret');
    },
  );

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
