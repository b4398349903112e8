/** A promotion in a Kafka log, of a server that nobody runs: whoever was the source before it is so no more. */
import { ChainWriter } from '../../core/chain/writer.ts';
import { silentLogger } from '../../core/logging/logger.ts';
import { type KafkaPlace, never, openKafkaLog } from './kafka-log.ts';

const sourceUuid = '00000000-0000-4000-8000-000000000001';

export async function promoteAnother(place: KafkaPlace): Promise<void> {
  const log = await openKafkaLog(place, { create: false });
  const { state, next } = await log.checkpoint();
  const logger = silentLogger();
  const options = { signal: never, logger, base: state, first: next, sourceUuid: '', continued: null };
  const writer = await ChainWriter.open(log, options);
  await writer.appendPromotion({ reason: 'test', sourceUuid });
  await log.close();
}
