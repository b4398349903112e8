/** Why a writer stops for good: the chain, in whichever store decides, is somebody else's by now. */
import type { GtidSet } from '../binlog/gtid-set.ts';
import { integrityError, type QazynaError } from '../errors/error.ts';

/** Another server is the source, or another agent writes for this one. */
export const supersededCodes: readonly string[] = ['QZ3310', 'QZ3311'];

interface Present {
  generation: number;
  sourceUuid: string;
  writer: string;
  gtids: GtidSet;
}

/** `store`: for the message, such as `Kafka topic qazyna.agama`. `own`: the source that this agent stands beside. */
export function fencedIn(store: string, { generation, sourceUuid, gtids }: Present, own: string): QazynaError {
  // Our source wrote a part of this history.
  const isFormerSource = !gtids.ofSource(own).isEmpty;
  return integrityError(
    'QZ3310',
    `The chain in ${store} is at generation ${generation} of the source ${sourceUuid}, but this agent stands beside ${own}.`,
    'Another server has taken over, or this one was replaced. If this server is to be protected from now on, run `qazyna timeline new --reason …`.',
    { details: { generation, sourceUuid, isFormerSource } },
  );
}

export function claimedByAnother(store: string, { writer, generation }: Present): QazynaError {
  return integrityError(
    'QZ3311',
    `Another agent (writer ${writer}) has claimed the chain in ${store}, so this one stops for good.`,
    'One agent may run for one source. Stop the other one, or leave this one stopped.',
    { details: { writer, generation } },
  );
}
