/** What must hold between a source and its replica. */
import { expect } from '@jest/globals';
import { fingerprint } from '../lab/fingerprint.ts';
import { executedGtids, replicaStatus, type TestServer } from './stream-servers.ts';

/** Every GTID, row, definition and account; a replica keeps events that it was sent from running. */
export async function same(source: TestServer, replica: TestServer): Promise<void> {
  expect(await executedGtids(replica)).toBe(await executedGtids(source));
  const lines = (await fingerprint(replica.connection)).map((line) => line.replace('DISABLE ON REPLICA', 'ENABLE'));
  expect(lines).toEqual(await fingerprint(source.connection));
  expect(await replicaStatus(replica)).toMatchObject({ Last_IO_Error: '', Last_SQL_Error: '' });
}
