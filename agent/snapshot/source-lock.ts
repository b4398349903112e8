/**
 * One snapshot of a source at a time, whoever takes it: a lock by name on the source (`GET_LOCK`), which the server itself
 * releases when the process or its connection dies. Not written to the binlog.
 */
import { transientError } from '../../core/errors/error.ts';
import type { MysqlConnection } from '../../core/mysql/connection.ts';

const lockName = 'qazyna.snapshot';
/** The server may notice only a moment later that the session that held it last is gone. */
const goneWithinSeconds = 3;
const keepAliveMs = 30_000;
/** The session may be busy cloning for as long as this. */
export const longestStatementMs = 24 * 3_600_000;

/** Throws QZ4504 when another snapshot holds it. The session's idle timeout is raised, as copying can take hours. */
export async function lockSource(connection: MysqlConnection): Promise<void> {
  await connection.query('SET SESSION wait_timeout = 86400');
  const [row] = await connection.query('SELECT GET_LOCK(?, ?) AS held', [lockName, goneWithinSeconds]);
  if (Number(row?.held) === 1) return;
  throw transientError('QZ4504', 'Another snapshot of this source is being taken.', 'Wait until it is done.');
}

/** Sends something now and then, so that no timeout ends the session unseen. Stop it by the function returned. */
export function keepAlive(connection: MysqlConnection, onLost: (error: unknown) => void): () => void {
  let waiting = false;
  const timer = setInterval(() => {
    if (waiting) return;
    waiting = true;
    connection
      .query('DO 1', [], longestStatementMs)
      .then(() => {
        waiting = false;
      })
      .catch((error: unknown) => {
        clearInterval(timer);
        onLost(error);
      });
  }, keepAliveMs);
  return () => clearInterval(timer);
}
