package configs

import (
	"regexp"
	"strings"
)

// endpoint is an address or URL of which everything is known: scheme, credentials, host and
// port.
var endpoint = regexp.MustCompile(`^([a-z][a-z0-9+]*://)?([^@/?#]*@)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])?(:[0-9]*)?/?$`)

// redactURLs hides what may be credentials in a list of addresses or URLs, well-formed or not:
// what stands before an @, and queries. Where a list has an @ and is not plainly one of URLs,
// a password may have had a comma, and nothing of it is shown.
func redactURLs(list []string) []string {
	shown := make([]string, len(list))
	secret, plain := false, true
	for i, s := range list {
		s = strings.TrimSpace(s)
		secret = secret || strings.Contains(s, "@")
		plain = plain && (len(list) == 1 || strings.Contains(s, "://"))
		shown[i] = redactURL(s)
		plain = plain && shown[i] != redacted
	}
	if secret && !plain {
		for i := range shown {
			shown[i] = redacted
		}
	}
	return shown
}

func redactURL(s string) string {
	place, query := s, ""
	if cut := strings.IndexAny(s, "?#"); cut >= 0 {
		place, query = s[:cut], s[cut:cut+1]+redacted
	}
	parts := endpoint.FindStringSubmatch(place)
	switch {
	case strings.Contains(s, "@") && (parts == nil || strings.Contains(s[len(place):], "@")):
		return redacted
	case parts == nil || parts[2] == "":
		return place + query
	}
	return parts[1] + redacted + "@" + parts[3] + parts[4] + query
}

// quoted are the values that the YAML library's messages hold.
var quoted = regexp.MustCompile("(unknown anchor|cannot unmarshal \\S+) ('[^']*'|`[^`]*`)")

// redactYAML hides values in a message: what YAML cannot read may be a password that should
// stand in quotes.
func redactYAML(message string) string {
	return quoted.ReplaceAllString(message, "$1 "+redacted+" (values that begin with * or & stand in quotes)")
}
