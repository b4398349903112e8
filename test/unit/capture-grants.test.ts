import { describe, expect, test } from '@jest/globals';
import { compareFiles, parseFileName } from '../../agent/capture/file-name.ts';
import { missingFrom, neededPrivileges } from '../../agent/doctor/grants.ts';

describe('grants as SHOW GRANTS prints them', () => {
  test('only what is granted on *.* counts', () => {
    expect(missingFrom(['GRANT USAGE ON *.* TO `q`@`%`'])).toEqual([...neededPrivileges]);
    expect(missingFrom(['GRANT SELECT, RELOAD ON `a`.* TO `q`@`%`'])).toContain('SELECT');
    expect(missingFrom([`GRANT ${neededPrivileges.join(', ')} ON *.* TO \`q\`@\`%\``])).toEqual([]);
  });

  test('ALL PRIVILEGES leaves out the dynamic one', () => {
    expect(missingFrom(['GRANT ALL PRIVILEGES ON *.* TO `q`@`%`'])).toEqual(['BACKUP_ADMIN']);
    const dynamic = 'GRANT APPLICATION_PASSWORD_ADMIN,BACKUP_ADMIN,CLONE_ADMIN ON *.* TO `q`@`%` WITH GRANT OPTION';
    expect(missingFrom(['GRANT ALL PRIVILEGES ON *.* TO `q`@`%`', dynamic])).toEqual([]);
  });
});

describe('binlog file names', () => {
  test('count beyond six digits and compare by number', () => {
    expect(parseFileName('a.b.1000000')).toEqual({ base: 'a.b', number: 1_000_000 });
    expect(compareFiles('b.1000000', 'b.999999')).toBeGreaterThan(0);
    expect(() => compareFiles('a.000001', 'b.000001')).toThrow(expect.objectContaining({ code: 'QZ3223' }));
    for (const name of ['binlog', 'binlog.00001', '../x.000001', ''])
      expect(() => parseFileName(name)).toThrow(expect.objectContaining({ code: 'QZ3222' }));
  });
});
