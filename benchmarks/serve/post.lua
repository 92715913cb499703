-- wrk's script: posts files in turn; wrk's arguments after -- are CONTENT_TYPE KEY FILE...
local bodies, at = {}, 0

function init(args)
  wrk.method = "POST"
  wrk.headers["Content-Type"] = args[1]
  if args[2] ~= "" then wrk.headers["Authorization"] = args[2] end
  for i = 3, #args do
    local file = assert(io.open(args[i], "rb"))
    bodies[#bodies + 1] = wrk.format(nil, nil, nil, file:read("*a"))
    file:close()
  end
end

function request()
  at = at % #bodies + 1
  return bodies[at]
end

function done(summary, latency, requests)
  local errors = summary.errors
  local lost = errors.connect + errors.read + errors.write + errors.timeout
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.6f, "p50_ms": %.3f, "p99_ms": %.3f, "refused": %d, "lost": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3,
    latency:percentile(99) / 1e3, errors.status, lost))
end
