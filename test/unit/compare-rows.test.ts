import { expect, test } from '@jest/globals';
import { compareSums } from '../../restore-tool/drill/compare-rows.ts';

const counted = { '`a`.`same`': 5, '`a`.`other`': 6, '`a`.`gone`': null, '`a`.`lost`': 7 };
const restored = { '`a`.`same`': 5, '`a`.`other`': 9, '`a`.`gone`': null, '`a`.`lost`': null };

test('sums of servers of one version tell which rows differ', () => {
  expect(compareSums(counted, restored, { source: '9.7.4', server: '9.7.4-2' })).toEqual({
    tables: 4,
    different: ['`a`.`other`', '`a`.`lost`'],
    unsure: [],
  });
});

test('across versions other sums of a table that is there are no alarm; a table that is not there is one', () => {
  expect(compareSums(counted, restored, { source: '8.0.15', server: '9.7.4-2' })).toEqual({
    tables: 3,
    different: ['`a`.`lost`'],
    unsure: ['`a`.`other`'],
  });
});
