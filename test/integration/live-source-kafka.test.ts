/** A stock replica that follows the live source over a Kafka topic, as a standby on another host does. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { stateAfter } from '../../core/archive/chain.ts';
import { findChainEnd } from '../../core/archive/resume.ts';
import type { KafkaLog } from '../../core/log/kafka/log.ts';
import { KafkaLab } from '../lab/kafka.ts';
import { agamaSchema, Workload } from '../lab/ledger.ts';
import { freshTopic, openKafkaLog } from '../made/kafka-log.ts';
import { same } from './live-checks.ts';
import { Archive, endpointOf, type Live, Pipe, relayDelays, serveLive, sourceName } from './live-lab.ts';
import { executedGtids, follow, never, Servers, type TestServer, untilExecuted } from './stream-servers.ts';

const servers = new Servers();
const small = { 'max-binlog-size': 1024 * 1024, 'relay-log-recovery': true };
let kafka: KafkaLab;
let source: TestServer;
let archive: Archive;
let live: Live;
let pipe: Pipe;
const logs: KafkaLog[] = [];

beforeAll(async () => {
  kafka = await KafkaLab.start({ brokers: 1 });
  const topic = freshTopic();
  const open = async (states?: () => Promise<ReturnType<typeof stateAfter>[]>) => {
    const place = { brokers: kafka.bootstrap, topic, dir: await servers.folder() };
    const log = await openKafkaLog(place, { replicationFactor: 1, ...(states ? { states } : {}) });
    logs.push(log);
    return log;
  };
  source = await servers.start(11, small);
  for (const sql of agamaSchema) await source.connection.query(sql);
  const agents = await open();
  pipe = await Pipe.start({ log: agents, server: source });
  servers.onClose(() => pipe.stop());
  archive = await Archive.start(servers, agents);
  await archive.reached(5);
  const states = async () => {
    const { last } = await findChainEnd(archive.store, sourceName, never);
    return last === null ? [] : [stateAfter(last.header)];
  };
  live = await serveLive(servers, await open(states), archive.store);
}, 180_000);

afterAll(async () => {
  await servers.close();
  for (const log of logs) await log.close();
  await kafka?.stop();
}, 120_000);

test('replicas follow over one broker; it is killed and comes back, and one replica with it', async () => {
  const [one, other] = [await servers.start(21, small), await servers.start(22, small)];
  await follow(one, live.stream);
  await follow(other, live.stream);
  const ledgerFile = `${await servers.folder()}/ledger`;
  const workload = await Workload.start({
    endpoint: endpointOf(source),
    ledgerFile,
    clients: 2,
    commitsPerSecond: 300,
  });
  await sleep(2000);
  await other.connection.query('STOP REPLICA');
  await kafka.kill(0);
  await one.crash();
  await kafka.restart(0);
  await kafka.untilReady();
  await source.connection.query('FLUSH BINARY LOGS');
  await sleep(2000);
  await other.connection.query('START REPLICA');
  await sleep(2000);
  await workload.stop();
  const wanted = await executedGtids(source);
  for (const replica of [one, other]) await untilExecuted(replica, wanted);
  for (const replica of [one, other]) await same(source, replica);
  expect(live.faults.filter((fault) => !/QZ43/.test(String((fault as { code?: string }).code)))).toEqual([]);
}, 120_000);

test('an entry is in the relay log within milliseconds', async () => {
  const replica = await servers.start(23, small);
  await follow(replica, live.stream);
  await untilExecuted(replica, await executedGtids(source));
  const ledgerFile = `${await servers.folder()}/ledger`;
  const workload = await Workload.start({
    endpoint: endpointOf(source),
    ledgerFile,
    clients: 2,
    commitsPerSecond: 200,
  });
  const { count, at, text } = await relayDelays(pipe, replica, 4000);
  await workload.stop();
  process.stderr.write(`${text}\n`);
  expect(count).toBeGreaterThan(100);
  expect(at(0.5)).toBeLessThan(50);
}, 120_000);
