/** The compose file says what the rest of the project says. Docker itself is nowhere that this is tested. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { parse } from 'yaml';
import { z } from 'zod';
import { parseS3Place } from '../../core/archive/s3-place.ts';
import { parseConfig } from '../../core/config/config.ts';
import { kafkaVersion, versitygwVersion } from '../../scripts/setup/servers.ts';

const folder = join(import.meta.dirname, '../../ops/compose');
const read = (name: string) => readFileSync(join(folder, name), 'utf8');
const service = z.object({
  image: z.string().optional(),
  build: z.object({ target: z.string() }).optional(),
  command: z.array(z.string()).optional(),
  volumes: z.array(z.string()).default([]),
  secrets: z.array(z.string()).default([]),
  environment: z.record(z.string(), z.unknown()).default({}),
});
const { services, volumes, secrets } = z
  .object({
    services: z.record(z.string(), service),
    volumes: z.record(z.string(), z.unknown()),
    secrets: z.record(z.string(), z.unknown()),
  })
  .parse(parse(read('compose.yaml'), { merge: true }));

/** What a service mounts, by its path in the container. */
function mounts(name: string): Map<string, string> {
  return new Map(
    (services[name]?.volumes ?? []).map((line): [string, string] => {
      const [from = '', to = ''] = line.split(':');
      return [to, from];
    }),
  );
}

function configOf(name: string) {
  const file = mounts(name).get('/etc/qazyna/config.yaml') ?? '';
  return parseConfig(file, read(file));
}

describe('the compose file', () => {
  test('names the versions that set-up fetches, and targets, files, volumes and secrets that there are', () => {
    const dockerfile = read('Dockerfile');
    expect(dockerfile).toContain(`/versitygw@v${versitygwVersion}\n`);
    for (const name of ['kafka-1', 'kafka-2', 'kafka-3'])
      expect(services[name]?.image).toBe(`apache/kafka:${kafkaVersion}`);
    for (const [name, each] of Object.entries(services)) {
      if (each.build !== undefined)
        expect([name, dockerfile]).toEqual([name, expect.stringContaining(` AS ${each.build.target}\n`)]);
      for (const from of mounts(name).values()) {
        if (from.startsWith('./')) expect([name, from, existsSync(join(folder, from))]).toEqual([name, from, true]);
        else expect([name, Object.keys(volumes)]).toEqual([name, expect.arrayContaining([from])]);
      }
      for (const secret of each.secrets)
        expect([name, Object.keys(secrets)]).toEqual([name, expect.arrayContaining([secret])]);
    }
  });

  test.each([
    ['qazyna', 'local'],
    ['agent', 'kafka'],
    ['shipper-onsite', 'kafka'],
    ['shipper-offsite', 'kafka'],
  ])('%s finds its log, its archives and its secrets where its configuration looks for them', (name, kind) => {
    const { log, archives, source, snapshots } = configOf(name);
    expect(log.kind).toBe(kind);
    const mounted = mounts(name);
    expect([...mounted.keys()]).toEqual(expect.arrayContaining([log.kind === 'local' ? log.dir : log.stateDir]));
    expect(mounted.get(snapshots.scratchDir ?? '')).toBe(mounts('mysql').get(snapshots.scratchDir ?? ''));
    expect(services[name]?.secrets.map((secret) => `/run/secrets/${secret}`)).toContain(source.mysql?.passwordFile);
    for (const { dir } of archives) if (dir !== null) expect([...mounted.keys()]).toContain(dir);
  });

  test('brokers, S3 server and the restore are where agent and shippers look', () => {
    const { log, archives } = configOf('agent');
    const brokers = ['kafka-1', 'kafka-2', 'kafka-3'].map((name) =>
      String(services[name]?.environment.KAFKA_ADVERTISED_LISTENERS).replace('PLAINTEXT://', ''),
    );
    expect(log).toMatchObject({ brokers });
    const url = archives.find(({ dir }) => dir === null)?.url ?? '';
    const { endpoint, bucket, credentialsFile } = parseS3Place(new URL(url));
    expect(endpoint?.host).toBe(`s3:${/--port :(\d+)/.exec(read('s3.sh'))?.[1]}`);
    expect(read('s3.sh')).toContain(`/data/${bucket}\n`);
    expect(services['shipper-offsite']?.secrets.map((secret) => `/run/secrets/${secret}`)).toContain(credentialsFile);
    const from = services.restore?.command?.find((line) => line.startsWith('--from='))?.slice('--from='.length) ?? '';
    expect(parseS3Place(new URL(from))).toMatchObject({ bucket, endpoint, prefix: parseS3Place(new URL(url)).prefix });
  });
});
