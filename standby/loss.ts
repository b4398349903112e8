/** What the old primary holds beyond the history: asked of itself, where it still answers. */
import type { GtidSet } from '../core/binlog/gtid-set.ts';
import { connectMysql, type MysqlEndpoint } from '../core/mysql/connection.ts';
import { executedBy, serverUuidOf } from './server.ts';

const deadlineMs = 1000;

/** Null when it does not answer within a second, or another server stands there. */
export async function beyondHistory(
  primary: MysqlEndpoint,
  history: { gtids: GtidSet; sourceUuid: string },
  signal: AbortSignal,
): Promise<GtidSet | null> {
  const either = AbortSignal.any([signal, AbortSignal.timeout(2 * deadlineMs)]);
  try {
    const connection = await connectMysql({ ...primary, connectTimeoutMs: deadlineMs }, either);
    try {
      if ((await serverUuidOf(connection)) !== history.sourceUuid) return null;
      return (await executedBy(connection)).subtract(history.gtids);
    } finally {
      await connection.close();
    }
  } catch {
    signal.throwIfAborted();
    return null;
  }
}
