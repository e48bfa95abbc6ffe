// A client as somebody would write it with the official SDK: it signs in with a
// provider of its own and uses a server.
//
//   node typescript.mjs URL legacy|auto|VERSION demo|fixtures
//
// "open URL" on standard output asks for a person; each other line is a check,
// as JSON with a name and, where it failed, a fault.
import { createServer } from 'node:http';
import { Client, StreamableHTTPClientTransport, UnauthorizedError } from '@modelcontextprotocol/client';

const [url, mode, server] = process.argv.slice(2);

/** The redirect of the authorization server, on a loopback port. */
let arrived;
let callback = new Promise((resolve) => (arrived = resolve));
const loopback = createServer((request, response) => {
  response.end('done');
  arrived(new URL(request.url, 'http://127.0.0.1').searchParams);
});
const signedIn = async (transport) => {
  const parameters = await callback;
  same(parameters.get('state'), provider.state());
  await transport.finishAuth(parameters);
  callback = new Promise((resolve) => (arrived = resolve));
};
await new Promise((resolve) => loopback.listen(0, '127.0.0.1', resolve));

class Provider {
  redirectUrl = `http://127.0.0.1:${loopback.address().port}/callback`;
  clientMetadata = {
    client_name: 'typescript-sdk',
    redirect_uris: [this.redirectUrl],
    grant_types: ['authorization_code', 'refresh_token'],
    response_types: ['code'],
    token_endpoint_auth_method: 'none',
  };
  state = () => 'a-state-of-the-client';
  clientInformation = () => this.registered;
  saveClientInformation = (registered) => void (this.registered = registered);
  tokens = () => this.held;
  saveTokens = (tokens) => void (this.held = tokens);
  saveCodeVerifier = (verifier) => void (this.verifier = verifier);
  codeVerifier = () => this.verifier;
  saveDiscoveryState = (state) => void (this.discovered = state);
  discoveryState = () => this.discovered;
  redirectToAuthorization = (to) => console.log(`open ${to}`);
}

const provider = new Provider();
const logged = [];
let asked = 0;

function newClient() {
  const client = new Client(
    { name: 'typescript-sdk', version: '1.0.0' },
    {
      capabilities: { elicitation: { form: {} }, sampling: {} },
      versionNegotiation: { mode: /^\d/.test(mode) ? { pin: mode } : mode },
    },
  );
  client.setRequestHandler('elicitation/create', () => {
    asked++;
    return { action: 'accept', content: { username: 'ada', email: 'ada@example.com' } };
  });
  client.setRequestHandler('sampling/createMessage', () => ({
    model: 'none', role: 'assistant', content: { type: 'text', text: 'sampled words' },
  }));
  client.setNotificationHandler('notifications/message', (n) => void logged.push(n));
  return client;
}

async function check(name, run) {
  try {
    await run();
    console.log(JSON.stringify({ name }));
  } catch (error) {
    console.log(JSON.stringify({ name, fault: `${error?.stack ?? error}` }));
  }
}

function same(got, want) {
  got = JSON.stringify(got);
  want = JSON.stringify(want);
  if (got !== want) throw new Error(`got ${got}, want ${want}`);
}

const failure = async (promise) => {
  try {
    return { result: await promise };
  } catch (error) {
    return { error };
  }
};

let client, transport;
await check('sign-in', async () => {
  client = newClient();
  transport = new StreamableHTTPClientTransport(new URL(url), { authProvider: provider });
  const { error } = await failure(client.connect(transport));
  if (!(error instanceof UnauthorizedError)) throw error ?? new Error('connected without signing in');
  await signedIn(transport);
  client = newClient();
  transport = new StreamableHTTPClientTransport(new URL(url), { authProvider: provider });
  await client.connect(transport);
  same(provider.held.token_type.toLowerCase(), 'bearer');
});
await check('revision', () => same(client.getNegotiatedProtocolVersion(), mode === 'legacy' ? '2025-11-25' : '2026-07-28'));
await check('unknown tool', async () => {
  const { result, error } = await failure(client.callTool({ name: 'nonesuch', arguments: {} }));
  if (!error || error.code !== -32602) throw new Error(`answered with ${JSON.stringify(result)} ${error}`);
});
if (server === 'demo') {
  await check('tools', async () => same((await client.listTools()).tools.map((t) => t.name).sort(), ['add', 'generateImage', 'userInfo']));
  await check('call', async () => {
    const result = await client.callTool({ name: 'add', arguments: { a: 19, b: 23 } });
    same([result.structuredContent, result.content[0].text], [{ sum: 42 }, '42']);
  });
  await check('user', async () => {
    const result = await client.callTool({ name: 'userInfo', arguments: {} });
    if (!JSON.stringify(result).includes('admin@example.com')) throw new Error(JSON.stringify(result));
  });
  await check('tool error', async () => same((await client.callTool({ name: 'add', arguments: { a: 'x' } })).isError, true));
  await check('progress', async () => {
    const steps = [];
    const draw = () => client.callTool({ name: 'generateImage', arguments: { prompt: 'a boat' } }, { onprogress: (p) => steps.push(p.progress) });
    let { result, error } = await failure(draw());
    if (error instanceof UnauthorizedError) {
      // The scope that pictures need was not asked for at first.
      await signedIn(transport);
      result = await draw();
    } else if (error) throw error;
    same(result.isError ?? false, false);
    same(result.content.some((c) => c.type === 'image'), true);
    if (steps.length === 0 || steps.some((p, i) => i > 0 && p <= steps[i - 1])) throw new Error(`progress ${steps}`);
  });
} else {
  await check('progress', async () => {
    const steps = [];
    await client.callTool({ name: 'test_tool_with_progress', arguments: {} }, { onprogress: (p) => steps.push(p.progress) });
    same(steps, [0, 50, 100]);
  });
  await check('elicitation', async () => {
    const result = await client.callTool({ name: 'test_elicitation', arguments: { message: 'Who are you?' } });
    same(asked, 1);
    if (!result.content[0].text.includes('ada')) throw new Error(JSON.stringify(result));
  });
  await check('sampling', async () => {
    const result = await client.callTool({ name: 'test_sampling', arguments: { prompt: 'Speak' } });
    if (!result.content[0].text.includes('sampled words')) throw new Error(JSON.stringify(result));
  });
  await check('tool error', async () => same((await client.callTool({ name: 'test_error_handling', arguments: {} })).isError, true));
  await check('resource', async () => {
    const { contents } = await client.readResource({ uri: 'test://static-text' });
    same(contents[0].text, 'This is the content of the static text resource.');
  });
  await check('prompt', async () => {
    const { messages } = await client.getPrompt({ name: 'test_prompt_with_arguments', arguments: { arg1: 'x', arg2: 'y' } });
    same(messages[0].content.text, "Prompt with arguments: arg1='x', arg2='y'");
  });
}
await check('close', () => client.close());
loopback.close();
loopback.closeAllConnections();
