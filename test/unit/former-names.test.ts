import { expect, test } from '@jest/globals';
import { optionsOf, statementOf } from '../../core/mysql/former-names.ts';
import { standbyOptions } from '../../core/restore/server-options.ts';

test('options by the names that each version knows', () => {
  const options = standbyOptions({}, 5, { semiSync: true });
  expect(optionsOf('8.0.30', options)).toEqual(options);
  expect(optionsOf('9.7.4', options)).toEqual(options);
  const at26 = optionsOf('8.0.26', options);
  expect(at26).toMatchObject({ 'replica-parallel-workers': 4, 'replica-parallel-type': 'LOGICAL_CLOCK' });
  expect(at26).toMatchObject({ 'innodb-log-file-size': 512 * 1024 ** 2, 'innodb-log-files-in-group': 2 });
  expect(at26).not.toHaveProperty('innodb-redo-log-capacity');
  const old = optionsOf('8.0.25', options);
  expect(Object.keys(old).filter((name) => /replica|source|redo/.test(name))).toEqual([]);
  expect(old).toMatchObject({
    'skip-slave-start': true,
    'slave-parallel-workers': 4,
    'slave-preserve-commit-order': true,
    'rpl-semi-sync-master-wait-for-slave-count': 1,
    'plugin-load-add': 'mysql_clone.so;semisync_master.so',
  });
  // Before 8.0.19 several threads keep the order only where they write a binlog.
  expect(optionsOf('8.0.18', options)).toMatchObject({
    'slave-parallel-workers': 0,
    'slave-preserve-commit-order': false,
  });
  expect(optionsOf('8.0.15', options)).toMatchObject({ 'plugin-load-add': 'semisync_master.so' });
  expect(optionsOf('8.0.15', { 'server-id': 5 })).toEqual({ 'server-id': 5 });
});

test('statements by the words that each version knows', () => {
  const change = 'CHANGE REPLICATION SOURCE TO SOURCE_HOST = ?, SOURCE_SSL = 1';
  expect(statementOf('8.0.23', change)).toBe(change);
  expect(statementOf('8.0.22', change)).toBe('CHANGE MASTER TO MASTER_HOST = ?, MASTER_SSL = 1');
  expect(statementOf('8.0.22', 'RESET REPLICA ALL')).toBe('RESET REPLICA ALL');
  expect(statementOf('8.0.21', 'RESET REPLICA ALL')).toBe('RESET SLAVE ALL');
  expect(statementOf('8.0.21', 'SHOW REPLICAS')).toBe('SHOW SLAVE HOSTS');
  expect(statementOf('8.0.21', 'CHANGE REPLICATION FILTER x = (y)')).toBe('CHANGE REPLICATION FILTER x = (y)');
});
