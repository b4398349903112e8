/**
 * Shuts everybody out of a server that is the primary no more. Its commits may be waiting for an acknowledgement that never
 * comes: they are in its binlog but not in its `gtid_executed`, they hold up `super_read_only`, and a server that is told to
 * stop answers OK to all of them (seen on 9.7). Killed, it tells nobody, and its recovery makes plain what it holds.
 */
import { isKind } from '../core/errors/error.ts';
import type { Logger } from '../core/logging/logger.ts';
import { connectMysql } from '../core/mysql/connection.ts';
import type { ServerFacts, StandbyServer } from './server.ts';

/** No commit that is not waiting takes so long to end. */
const withinMs = 3000;

/** Afterwards no client is in it, nothing is written to it, and what it holds is in its `gtid_executed`. */
export async function fence(
  server: StandbyServer,
  facts: ServerFacts,
  { signal, logger }: { signal: AbortSignal; logger: Logger },
): Promise<void> {
  try {
    await shut(server, signal);
  } catch (error) {
    if (!isKind(error, 'transient') || signal.aborted) throw error;
    logger.warn(`commits are under way in this server, or it does not answer: it is killed and comes back read-only`, {
      reason: error.message,
    });
    await server.kill(signal);
    await server.ensureRunning(facts, signal);
    await shut(server, signal);
  }
}

async function shut(server: StandbyServer, signal: AbortSignal): Promise<void> {
  const connection = await connectMysql({ ...(await server.endpoint()), connectTimeoutMs: withinMs }, signal);
  try {
    // First: whoever waits for a commit loses its connection, before anything could answer it.
    for (const setting of ['offline_mode = ON', 'event_scheduler = OFF', 'super_read_only = ON'])
      await connection.query(`SET GLOBAL ${setting}`, [], withinMs);
  } finally {
    await connection.close();
  }
}
