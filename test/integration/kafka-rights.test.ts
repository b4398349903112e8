/** The rights that ops/README.md names, on brokers that allow nothing else: enough for each program, and no more than it needs. */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { QazynaError } from '../../core/errors/error.ts';
import type { KafkaLog, KafkaLogOptions } from '../../core/log/kafka/log.ts';
import { KafkaLab } from '../lab/kafka.ts';
import { EntryMaker } from '../made/entries.ts';
import { grantOnly, type TopicRight } from '../made/kafka-admin.ts';
import { never, openKafkaLog } from '../made/kafka-log.ts';

const topic = 'qazyna.agama';
const agentRights: TopicRight[] = ['Create', 'Describe', 'DescribeConfigs', 'Read', 'Write'];
const shipperRights: TopicRight[] = ['Describe', 'DescribeConfigs', 'Read'];

let kafka: KafkaLab;
let dir: string;

beforeAll(async () => {
  kafka = await KafkaLab.start({
    brokers: 1,
    secure: true,
    settings: {
      'authorizer.class.name': 'org.apache.kafka.metadata.authorizer.StandardAuthorizer',
      // Brokers among themselves, and this test.
      'super.users': 'User:ANONYMOUS',
    },
  });
  dir = await mkdtemp(join(tmpdir(), 'qazyna-rights-'));
}, 120_000);
afterAll(async () => {
  await kafka?.stop();
  await rm(dir, { recursive: true, force: true });
}, 120_000);

function open(changes: Partial<KafkaLogOptions> = {}): Promise<KafkaLog> {
  if (kafka.secured === null) throw new Error('the brokers are open to everybody');
  const { user, password, ca } = kafka.secured;
  const sasl = { mechanism: 'scram-sha-512' as const, user, password };
  return openKafkaLog({ brokers: kafka.bootstrap, topic, dir }, { tls: { ca }, sasl, ...changes });
}

const grant = (rights: readonly TopicRight[]) =>
  grantOnly(`127.0.0.1:${kafka.ports[0]?.internal}`, `User:${kafka.secured?.user}`, topic, rights);

async function codeOf(work: Promise<unknown>): Promise<string> {
  const error = await work.then(
    () => null,
    (reason: unknown) => reason,
  );
  return error instanceof QazynaError ? error.code : String(error);
}

const maker = new EntryMaker();

async function appendAndRead(log: KafkaLog, wanted: number): Promise<void> {
  await log.append([maker.events(1000)]);
  expect(await count(log)).toBe(wanted);
}

async function count(log: KafkaLog): Promise<number> {
  let entries = 0;
  for await (const _ of log.read(0, { follow: false, signal: never })) entries += 1;
  return entries;
}

describe('a topic whose brokers ask for rights', () => {
  test('without DescribeConfigs no topic is made that would be refused then', async () => {
    await grant(agentRights.filter((right) => right !== 'DescribeConfigs'));
    expect(await codeOf(open())).toBe('QZ2314');
    await grant(agentRights);
    expect(await codeOf(open({ create: false }))).toBe('QZ2310');
  }, 120_000);

  test("the agent's: it makes the topic, appends and reads", async () => {
    await grant(agentRights);
    const log = await open();
    await log.append([maker.claim()]);
    await appendAndRead(log, 2);
    await log.close();
  }, 120_000);

  test('once it is made, without Create', async () => {
    await grant(agentRights.filter((right) => right !== 'Create'));
    const log = await open();
    await appendAndRead(log, 3);
    await log.close();
  }, 120_000);

  test("the shipper's: it reads, and cannot append", async () => {
    await grant(shipperRights);
    const log = await open({ create: false });
    expect(await count(log)).toBe(3);
    // A passing fault, once it is open: rights may be on their way to be changed.
    await expect(log.append([maker.events(1000)])).rejects.toMatchObject({
      code: 'QZ4311',
      message: expect.stringContaining('Not authorized'),
    });
    await log.close();
  }, 120_000);

  test.each(['Describe', 'DescribeConfigs', 'Read'] as const)(
    'without %s it says what is missing',
    async (missing) => {
      // Kafka takes Read and Write for Describe as well, and DescribeConfigs for nothing else.
      const kept = missing === 'Describe' ? [] : shipperRights.filter((right) => right !== missing);
      await grant(kept);
      const opened = open({ create: false }).then(async (log) => {
        try {
          await count(log);
        } finally {
          await log.close();
        }
      });
      expect(await codeOf(opened)).toBe('QZ2314');
    },
    120_000,
  );

  test('ops/README.md names exactly these', async () => {
    const text = await readFile(join(import.meta.dirname, '../../ops/README.md'), 'utf8');
    const operations = (rights: readonly TopicRight[]) => rights.map((right) => `--operation ${right}`).join(' ');
    expect(text).toContain(`--topic ${topic} ${operations(agentRights)}\n`);
    expect(text).toContain(`--topic ${topic} ${operations(shipperRights)}\n`);
  });
});
