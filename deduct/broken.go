package deduct

import (
	"errors"
	"strings"

	"github.com/redis/go-redis/v9"
)

// leave counts a family whose keys Redis cannot work with, and reports whether that is
// what the error says: any other is of Redis itself, and concerns all families.
func (s *Shield) leave(tag string, err error, rep *Report) bool {
	var reply redis.Error
	if !errors.As(err, &reply) {
		return false
	}
	// Redis names the trouble, and older ones only the script that ran into it.
	says := reply.Error()
	if !strings.Contains(says, "WRONGTYPE") && !strings.Contains(says, "user_script") {
		return false
	}
	rep.Broken++
	s.log.Error("a family is left: its keys are broken", "family", tag, "err", err)
	return true
}

// isReply reports whether an error is one that Redis itself answered with.
func isReply(err error) bool {
	var reply redis.Error
	return errors.As(err, &reply)
}
