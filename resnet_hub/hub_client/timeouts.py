"""How long to wait for the Hub, in seconds: the one table of waits.

| wait | limit | then |
|---|---|---|
| a model, dataset, search or upload of which no byte moves | `SILENCE` | the cached copy, or an error |
| an upload or download by Xet of which no byte moves | `XET_SILENCE` | the same by plain HTTP, within `SILENCE` |
| a dataset that is read as a stream, of which nothing arrives | `STREAM_SILENCE` | an error; the run can be resumed |
| the question whether the Hub has the default model | `DEFAULT_MODEL` | the embedded model |
| suggestions while a visitor of the page types | `SUGGESTIONS` | no suggestions |

So a broken store behind Xet costs less than 30 seconds in all. What moves is never ended, however slow it is. Other
modules read a limit when they begin to wait: `timeouts.SILENCE`.
"""

SILENCE = 15.0
XET_SILENCE = 8.0
STREAM_SILENCE = 600.0  # long: the Hub may ask for a pause of 300 s, and a run of days should outlast a short outage
DEFAULT_MODEL = 5.0
SUGGESTIONS = 3.0

MIN_PROGRESS = 2**16  # bytes; a body that grows by fewer within `SILENCE` counts as silent
MAX_BACKOFF = 8.0  # between two requests where the response names no delay; of huggingface_hub
