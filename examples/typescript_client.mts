/** Call the service with the client from `make client`: npx --prefix clients/typescript tsx examples/typescript_client.mts [URL] */

import { events, trigen, type Schemas } from "../clients/typescript/client.ts";

const client = trigen(process.argv[2] ?? "http://127.0.0.1:3000", process.env["TRIGEN_API_KEY"]);

const generated = await client.POST("/generate_text", { body: { start_word: "The", length: 20 } });
if (generated.error) throw new Error(generated.error.detail);
console.log("text:", generated.data.generated_text);

const refused = await client.POST("/generate_text", { body: { start_word: "The", length: 0 } });
console.log("problem:", refused.error?.status, refused.error?.errors?.map((fault) => `${fault.loc.join(".")}: ${fault.msg}`));

const passage = "From 1889 to 1921 the light was kept by Anna Berg.";
const answer = await client.POST("/answer_question", { body: { question: "Who kept the light?", context: passage } });
console.log("answer:", answer.data?.answer, answer.data?.score);

const streamed = await client.POST("/generate_with_llm", {
  body: { start_word: "The", length: 20, stream: true },
  parseAs: "stream",
});
if (streamed.error) throw new Error(streamed.error.detail);
if (!streamed.data) throw new Error("the response has no body");
let last: Schemas["GenerateEvent"] | undefined;
for await (const event of events<Schemas["GenerateEvent"]>(streamed.data)) {
  process.stdout.write(event.text);
  last = event;
}
console.log("\nfinish_reason:", last?.finish_reason);

const completion = await client.POST("/v1/completions", { body: { model: "rnn", prompt: "The", max_tokens: 8, logprobs: 1 } });
console.log("completion:", completion.data?.choices[0]?.text, completion.data?.usage.total_tokens);

const info = await client.GET("/info");
console.log("info:", info.data?.models.llm.tag, info.data?.limits.context_tokens);
