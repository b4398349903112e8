/**
 * Writes transactions to a Kafka log until it is killed. Each line it prints is the end of what was accepted so far.
 *
 *   node test/made/kafka-log-child.ts BROKERS TOPIC DIR
 */
import { writeSync } from 'node:fs';
import { Load } from './kafka-load.ts';
import { never, openKafkaLog } from './kafka-log.ts';

const [brokers, topic, dir] = process.argv.slice(2);
if (import.meta.main && brokers !== undefined && topic !== undefined && dir !== undefined) {
  const log = await openKafkaLog({ brokers: brokers.split(','), topic, dir });
  const load = await Load.open(log, never);
  load.onAccepted = (end) => void writeSync(1, `${end}\n`);
  load.start([100, 20_000, 700_000, 30], 6);
}
