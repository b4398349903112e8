/** Brokers that ask for TLS and a login, and every way of getting either wrong. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { QazynaError } from '../../core/errors/error.ts';
import type { KafkaLog, KafkaLogOptions } from '../../core/log/kafka/log.ts';
import { selfSignedCertificate } from '../../core/stream/certificate.ts';
import { KafkaLab, type Secured } from '../lab/kafka.ts';
import { EntryMaker } from '../made/entries.ts';
import { freshTopic, openKafkaLog } from '../made/kafka-log.ts';

const wrongPassword = 'not-the-password-7731';
let kafka: KafkaLab;
let secured: Secured;
let dir: string;

beforeAll(async () => {
  kafka = await KafkaLab.start({ brokers: 1, secure: true });
  if (kafka.secured === null) throw new Error('the brokers are open to everybody');
  secured = kafka.secured;
  dir = await mkdtemp(join(tmpdir(), 'qazyna-secure-'));
}, 120_000);
afterAll(async () => {
  await kafka?.stop();
  await rm(dir, { recursive: true, force: true });
}, 120_000);

function open(changes: Partial<KafkaLogOptions>): Promise<KafkaLog> {
  const { user, password, ca } = secured;
  const right = { tls: { ca }, sasl: { mechanism: 'scram-sha-512' as const, user, password } };
  return openKafkaLog({ brokers: kafka.bootstrap, topic: freshTopic(), dir }, { ...right, ...changes });
}

describe('a secured Kafka topic', () => {
  test('is written and read by who brings the authority and the password', async () => {
    const log = await open({});
    try {
      const maker = new EntryMaker();
      expect(await log.append([maker.claim(), maker.events(1000)])).toEqual({ base: 0 });
      const kinds: string[] = [];
      const signal = new AbortController().signal;
      for await (const { entry } of log.read(0, { follow: false, signal })) kinds.push(entry.kind);
      expect(kinds).toEqual(['claim', 'events']);
    } finally {
      await log.close();
    }
  });

  const wrong: [string, () => Partial<KafkaLogOptions>, string][] = [
    [
      'a wrong password',
      () => ({ sasl: { mechanism: 'scram-sha-512', user: secured.user, password: wrongPassword } }),
      'QZ2312',
    ],
    [
      'an unknown user',
      () => ({ sasl: { mechanism: 'scram-sha-512', user: 'nobody', password: secured.password } }),
      'QZ2312',
    ],
    [
      'another mechanism',
      () => ({ sasl: { mechanism: 'plain', user: secured.user, password: secured.password } }),
      'QZ2312',
    ],
    ['no login', () => ({ sasl: null }), 'QZ4310'],
    ['no authority', () => ({ tls: {} }), 'QZ2313'],
    ['another authority', () => ({ tls: { ca: selfSignedCertificate('another', 1).certPem } }), 'QZ2313'],
    ['no TLS', () => ({ tls: null }), 'QZ4310'],
  ];
  test.each(wrong)('%s: one sentence, without a secret', async (_, changes, code) => {
    const error = await open(changes()).then(
      () => null,
      (reason: unknown) => reason,
    );
    if (!(error instanceof QazynaError)) throw new Error(`expected a QazynaError, got ${String(error)}`);
    expect(error.code).toBe(code);
    expect(error.message.split('\n')).toHaveLength(1);
    const told = JSON.stringify([error.message, error.hint, error.details]) + String(error.stack);
    for (const secret of [wrongPassword, secured.password]) expect(told).not.toContain(secret);
  });
});
