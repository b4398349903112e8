/** What every log says when it is asked for an entry that it does not hold. */
import { integrityError, type QazynaError } from '../errors/error.ts';

/** `held`: the first number held and the next to be written; `asked` lies outside. */
export function notHeld(name: string, asked: number, held: { first: number; next: number }): QazynaError {
  const { first, next } = held;
  const [sentence, hint] =
    asked < first
      ? [
          `begins with entry ${first}; ${asked} to ${first - 1} were released`,
          'Read them from an archive; when none holds them, they are lost.',
        ]
      : [
          `ends before entry ${next}, but entry ${asked} was asked for`,
          'The log lost its tail or is another one than before; compare with the archives.',
        ];
  return integrityError('QZ3313', `The ${name} ${sentence}.`, hint, { details: { first, next, asked } });
}
