/** What went wrong with the brokers, sorted into the four kinds. No message holds a secret: a BrokerFault's text never does. */
import { configurationError, integrityError, type QazynaError, transientError } from '../../errors/error.ts';
import { BrokerFault, type FaultReason } from './brokers.ts';

export interface TopicPlace {
  brokers: readonly string[];
  topic: string;
}

/** Said before anything starts; later, a broker whose certificate or rights are being changed is no reason to give up. */
const onlyAtStart: readonly FaultReason[] = ['login', 'tls', 'denied', 'unsupported'];

/** `action` as in "could not read". Anything but a BrokerFault is passed on as it is. `isOpen`: it worked before. */
export function brokerError(place: TopicPlace, action: string, error: unknown, isOpen = false): unknown {
  if (!(error instanceof BrokerFault)) return error;
  const { topic } = place;
  const at = place.brokers.join(', ');
  const options = { cause: error, details: { topic, brokers: place.brokers, reason: error.reason } };
  const make = isOpen && onlyAtStart.includes(error.reason) ? passing : errors[error.reason];
  return make({ at, topic, action, text: sentencePart(error.message) }, options);
}

interface Words {
  at: string;
  topic: string;
  action: string;
  text: string;
}

type Make = (words: Words, options: { cause: unknown; details: Record<string, unknown> }) => QazynaError;

const passing: Make = ({ at, topic, action, text }, options) =>
  transientError(
    'QZ4311',
    `The Kafka brokers at ${at} could not ${action} the topic ${topic} (${text}).`,
    'It is tried again; if it lasts, look at the brokers’ logs.',
    options,
  );

const errors: Record<FaultReason, Make> = {
  unreachable: ({ at, topic, action, text }, options) =>
    transientError(
      'QZ4310',
      `The Kafka brokers at ${at} could not be reached to ${action} the topic ${topic} (${text}).`,
      'It is tried again. Check that they run and that log.kafka.brokers is right; a broker that expects TLS or a login hangs up on who brings none, and one without TLS on who asks for it.',
      options,
    ),
  login: ({ at, text }, options) =>
    configurationError(
      'QZ2312',
      `The Kafka brokers at ${at} refuse the login (${text}).`,
      'Check log.kafka.sasl: mechanism, user, and the password in password_file.',
      options,
    ),
  tls: ({ at, text }, options) =>
    configurationError(
      'QZ2313',
      `No TLS connection to the Kafka brokers at ${at} could be made (${text}).`,
      'Check log.kafka.tls: ca_file must hold the authority of the brokers’ certificates, the names in them must be those in log.kafka.brokers, and the port must speak TLS.',
      options,
    ),
  denied: ({ at, topic, action, text }, options) =>
    configurationError(
      'QZ2314',
      `The Kafka brokers at ${at} do not allow this user to ${action} the topic ${topic} (${text}).`,
      'Grant it Read, Write, Describe and DescribeConfigs on the topic (kafka-acls --add), and Create if qazyna is to make it.',
      options,
    ),
  'no-topic': ({ at, topic }, options) =>
    transientError(
      'QZ4314',
      `The Kafka brokers at ${at} know no topic ${topic}.`,
      'It is looked for again. If somebody deleted it, what was only there is lost: compare with the archives.',
      options,
    ),
  'too-large': ({ topic, text }, options) =>
    transientError(
      'QZ4317',
      `The Kafka topic ${topic} does not take a message of this size any more (${text}).`,
      'Raise max.message.bytes of the topic to 20971520 again (kafka-configs --alter); then it goes on by itself.',
      options,
    ),
  foreign: ({ topic, text }, options) =>
    integrityError(
      'QZ3323',
      `The Kafka topic ${topic} holds records that no qazyna wrote (${text}).`,
      'Nothing else may write to this topic: take the right from others, and give the log a topic of its own.',
      options,
    ),
  'refused-topic': ({ at, topic, text }, options) =>
    configurationError(
      'QZ2318',
      `The Kafka brokers at ${at} refuse to make the topic ${topic} (${text}).`,
      'Choose another log.kafka.topic or replication_factor (not more than there are brokers), or let the brokers’ keeper make it.',
      options,
    ),
  unsupported: ({ at, text }, options) =>
    configurationError(
      'QZ2319',
      `The Kafka brokers at ${at} do not offer what qazyna needs of Kafka’s protocol (${text}).`,
      'Kafka before 0.11 cannot hold a log, nor can what speaks only a part of its protocol: let log.kafka.brokers name later brokers. ops/README.md says which were tried.',
      options,
    ),
  'timed-out': passing,
  'no-leader': passing,
  'too-few-replicas': ({ topic, text }, options) =>
    transientError(
      'QZ4313',
      `Too few replicas of the Kafka topic ${topic} are in sync, so nothing is accepted (${text}).`,
      'It goes on by itself once min.insync.replicas of them are back: start the brokers that are down.',
      options,
    ),
  'out-of-range': passing,
  other: passing,
};

/** A client's sentence inside one of ours. */
function sentencePart(message: string): string {
  return message.replace(/\s+/g, ' ').replace(/\.$/, '').slice(0, 300);
}
