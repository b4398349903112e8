/** What statements say about events, and which mysqld may take over which snapshot. */
import { describe, expect, test } from '@jest/globals';
import { parseEventStatement } from '../../core/restore/event-statements.ts';
import { requireVersion } from '../../core/restore/versions.ts';

const set = (key: string, status: string | null, isNew: boolean, renamedTo: string | null = null) => ({
  kind: 'set',
  key,
  status,
  isNew,
  renamedTo,
});

describe('statements about events', () => {
  test.each([
    ['CREATE EVENT e ON SCHEDULE EVERY 1 DAY DO SELECT 1', set('d.e', null, true)],
    [
      "CREATE DEFINER=`a b`@`%` EVENT IF NOT EXISTS `x`.`Odd ``name` ON SCHEDULE AT '2030-01-01' + INTERVAL (SELECT 1) DAY ON COMPLETION PRESERVE DISABLE COMMENT 'ENABLE DO' DO BEGIN ALTER EVENT y ENABLE; END",
      set('x.odd `name', 'DISABLED', true),
    ],
    [
      'CREATE DEFINER=CURRENT_USER() EVENT e ON SCHEDULE EVERY 1 DAY ENABLE DO DELETE FROM t WHERE v = "DISABLE"',
      set('d.e', 'ENABLED', true),
    ],
    ['alter event E disable on replica', set('d.e', 'REPLICA_SIDE_DISABLED', false)],
    ['ALTER EVENT `d`.e /* DISABLE */ RENAME TO z.f ENABLE -- DISABLE\n', set('d.e', 'ENABLED', false, 'z.f')],
    ['ALTER EVENT e ON SCHEDULE EVERY 2 HOUR', set('d.e', null, false)],
    ['/*!50106 CREATE EVENT e ON SCHEDULE EVERY 1 DAY DISABLE DO SELECT 1 */', set('d.e', 'DISABLED', true)],
    ['DROP EVENT IF EXISTS `d`.`e`', { kind: 'drop', key: 'd.e' }],
    ['drop schema if exists `two words`', { kind: 'drop database', database: 'two words' }],
    ['CREATE TABLE event (id INT)', null],
    ['INSERT INTO event VALUES (1)', null],
    ['DROP TABLE event', null],
    ['CREATE', null],
    ['CREATE DEFINER=x EVENT', set('d.', null, true)],
  ])('%s', (sql, expected) => {
    expect(parseEventStatement(sql, 'd')).toEqual(expected);
  });
});

describe('versions', () => {
  test.each([
    ['9.7.4', '9.7.4-2', 'clone', true],
    ['9.7.9', '9.7.4', 'clone', true],
    ['9.7.1', '9.7.4', 'clone', true],
    ['8.4.9', '8.0.39', 'clone', true],
    ['9.7.4', '8.4.6', 'clone', true],
    ['9.7.4', '9.1.0', 'clone', true],
    ['9.7.4', '8.0.39', 'clone', false],
    ['8.0.36', '8.0.39', 'clone', false],
    ['8.4.6', '9.7.4', 'clone', false],
    ['9.1.0', '9.2.0', 'clone', false],
    ['9.7.4', '8.0.39', 'logical', true],
    ['8.0.36', '8.0.39', 'logical', true],
    ['8.0.39', '8.4.1', 'logical', false],
    ['9.7.4', 'unreadable', 'clone', false],
  ] as const)('mysqld %s on a snapshot of %s (%s): %s', (program, snapshot, engine, fits) => {
    const attempt = () => requireVersion(program, snapshot, engine);
    if (fits) expect(attempt).not.toThrow();
    else expect(attempt).toThrow(expect.objectContaining({ code: 'QZ2603', exitCode: 2 }));
  });
});
