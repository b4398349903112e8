import { describe, expect, test } from '@jest/globals';
import { configurationError, exitCodes, isKind, QazynaError, transientError } from '../../core/errors/error.ts';
import { textsAfter } from '../../scripts/code-texts.ts';
import { documentedCodes, errorsInSources } from '../../scripts/errors.ts';

const remedy = 'run `node scripts/errors.ts`';

describe('error codes', () => {
  const used = errorsInSources();

  test('every code of the sources stands in ops/errors.md, and none beside them', () => {
    const documented = documentedCodes();
    expect(used.length).toBeGreaterThan(50);
    expect({ remedy, undocumented: used.map(({ code }) => code).filter((code) => !documented.includes(code)) }).toEqual(
      { remedy, undocumented: [] },
    );
    const known = new Set(used.map(({ code }) => code));
    expect({ remedy, unused: documented.filter((code) => !known.has(code)) }).toEqual({ remedy, unused: [] });
    expect(new Set(documented).size).toBe(documented.length);
  });

  test('every code has a known exit code and says what to do', () => {
    for (const { code, sentence, hint } of used) {
      expect([code, ['2', '3', '4'].includes(code.charAt(2))]).toEqual([code, true]);
      expect({ code, sentence, hint }).toEqual({
        code,
        sentence: expect.stringMatching(/\S/),
        hint: expect.any(String),
      });
    }
  });
});

describe('the reader of texts', () => {
  test.each([
    ["f('QZ1', 'One.', 'Do it.')", 'One.', 'Do it.'],
    [`f('QZ1', \`File $\{a ? \`x$\{b}\` : "y"} is gone.\`, help)`, 'File … is gone.', '…'],
    ["const help = 'Do ' + 'that.';\nf('QZ1', 'One ' +\n 'two.', help, { cause })", 'One two.', 'Do that.'],
    ["{ code: 'QZ1', sentence: 'It (a, b) is so.', hint: a ? 'Do.' : 'Leave.' }", 'It (a, b) is so.', 'Do. / Leave.'],
    ["f('QZ1', 3, 'After a number, with a\\'quote.', g('not', 'this'))", "After a number, with a'quote.", 'not / this'],
    ["f('QZ1', text(a, b), // why, indeed\n 'Do.')", '…', 'Do.'],
  ])('%s', (source, sentence, hint) => {
    const place = source.indexOf('QZ1') + 4;
    expect(textsAfter(source, place)).toEqual([sentence, hint]);
  });
});

describe('the four kinds', () => {
  test('carry their exit code, details and cause', () => {
    const cause = new Error('below');
    const error = configurationError('QZ2010', 'There is none.', 'Make one.', { cause, details: { file: 'x' } });
    expect([error.exitCode, error.kind, error.details, error.cause]).toEqual([
      exitCodes.configuration,
      'configuration',
      { file: 'x' },
      cause,
    ]);
    expect(transientError('QZ4000', 'a', 'b').exitCode).toBe(4);
    expect(new QazynaError('integrity', 'QZ3000', 'a', 'b').exitCode).toBe(3);
    expect([isKind(error, 'configuration'), isKind(error, 'integrity'), isKind(cause, 'configuration')]).toEqual([
      true,
      false,
      false,
    ]);
  });
});
